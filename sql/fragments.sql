-- Pieces that several statements share. A comment with the name of one, as /*record_columns*/, stands for its text.
-- What other comments of that form stand for is put in by search/page_query.py.

-- fragment: record_columns
-- The columns of a record as it is answered, of a record r and its object o.
r.record_id, r.name, r.external_id,
       shown_fields(o.null_fields, o.inactive_fields, o.removals, r.fields, r.definition_version) as fields,
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
