-- Pieces that several statements share. A comment with the name of one, as /*record_columns*/, stands for its text.
-- What other comments of that form stand for is put in by search/page_query.py.

-- fragment: record_columns
-- The columns of a record as it is answered, of a record r and its object o.
r.record_id, r.name, r.external_id,
       shown_fields(o.null_fields, o.inactive_fields, o.removals, r.fields, r.definition_version)::text as fields,
       r.version, r.created_at, r.updated_at, r.created_by_user_id, r.updated_by_user_id

-- fragment: object_of_page
-- The object whose records a page is of. `offset 0` keeps its columns from being read anew for each record.
(select * from objects where account_id = :account_id and object_id = :object_id
        offset 0) as o

-- fragment: end_of_page
-- Nothing where the object is gone, or its definition is another one by now; the page in its order.
where o.deleted_at is null /*object*/
 /*order*/

-- fragment: record_found
-- The record that f names, looked up by its whole key.
(
              select * from records r
               where r.account_id = o.account_id and r.object_id = o.object_id and r.record_id = f.record_id
              offset 0) as r

-- fragment: live_text
-- What a search for words reads of a record r of the object o.
searched_text(
                       case when o.removals is null then r.fields
                            else live_fields(r.fields, r.definition_version, o.removals) end,
                       o.searched_fields)

-- fragment: bytes_so_far
-- How large a page is with each of its rows, in the window `page` of the page's order. No row counts for more than a
-- page, so that there is room for the first whatever its size.
sum(least(row_bytes, :byte_limit)) over page as page_bytes

-- fragment: within_bytes
-- The rows of a page that has so many bytes, and one more: it says that there is more.
page_bytes - least(row_bytes, :byte_limit) <= :byte_limit

-- fragment: object_columns
-- An object as it is answered, and about how many bytes that takes: its texts are answered twice.
object_id, key, title, title_pluralized, description, include_in_list_view, allows_photos, allows_attachments,
                       created_at, updated_at, created_by_user_id, updated_by_user_id,
                       1000 + 2 * (octet_length(title) + octet_length(title_pluralized)
                                   + coalesce(octet_length(description), 0)) as row_bytes

-- fragment: field_bytes
-- About how many bytes a field takes as it is answered: its texts are answered twice.
1000 + 2 * (octet_length(title) + coalesce(octet_length(description), 0))
                       + coalesce(octet_length(options::text), 0)
                       + coalesce(octet_length(relationship_filter::text), 0)

-- fragment: job_columns
-- A job as it is answered.
job_id, object_key, action, total, progress, status, message, shown_results(results) as results

-- fragment: is_kept
-- Whether a job is still to be seen.
(finished_at is null or finished_at > now() - job_retention())
