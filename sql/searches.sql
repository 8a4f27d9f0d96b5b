-- Comments such as /*order*/ are replaced by search/page_query.py, others by fragments.sql. Every sort by rank is
-- upwards, so that the ties of the best are settled by id.
--
-- Search documents are looked up by their terms alone, which begin with the account and the object: a condition that
-- another index can serve would let the planner choose that one, and read all of the object.

-- name: analyze_query
-- What a search for words must know before it begins. The queries are answered as text.
select o.version, o.search_state, w.words,
       (select string_agg(query::text, ' | ') from unnest(
               word_queries(:account_id, :object_id, w.words)) as query) as terms,
       (select string_agg(query::text, ' | ') from unnest(
               word_queries(:account_id, :object_id, w.words, '!')) as query) as name_terms
  from (select array(select distinct word from unnest(search_words(:text)) as word) as words) as w
  left join objects o on o.account_id = :account_id and o.object_id = :object_id and o.deleted_at is null;

-- name: analyze_name
-- The same for a search for a part of the name.
select o.version, o.search_state, name_query(:account_id, :object_id, :text)::text as terms
  from objects o
 where o.account_id = :account_id and o.object_id = :object_id and o.deleted_at is null;

-- name: read_for_words
-- Reads all records of the object. Most are passed over by a look at their folded JSON text, at a seventh of what
-- their score costs.
select /*record_columns*/, r.rank
  from /*object_of_page*/
 cross join lateral (
       select *
         from (select r.*, -search_score(:words::text[], r.name, /*live_text*/) as rank
                 from records r
                where r.account_id = o.account_id and r.object_id = o.object_id
                  and casefold((r.name || r.fields::text) collate pg_unicode_fast) like any (:patterns::text[])
               offset 0) as r
        where r.rank < 0 /*position*/
       /*order*/ /*limit*/) as r
 /*end_of_page*/;

-- name: best_rank
-- The best that there can be for words, without documents: in the name, if any name has one.
select -cardinality(:words::text[]) * case when exists (
           select from records r
            where r.account_id = :account_id and r.object_id = :object_id
              and casefold(r.name collate pg_unicode_fast) like any (:patterns::text[])
              and search_score(:words::text[], r.name, '') > 0) then 101 else 100 end;

-- name: scan_for_words
-- Reads the next records in their order, no further, for those of some ranks. What is common fills its page there. They are
-- sorted by what the sort needs of them alone.
select /*record_columns*/, r.rank
  from /*object_of_page*/
 cross join lateral (
       select *
         from (select r.*, -search_score(:words::text[], r.name, /*live_text*/) as rank
                 from (select r.record_id, r.name, r.created_at, r.updated_at from records r
                        where r.account_id = o.account_id and r.object_id = o.object_id /*position*/
                       /*order*/
                        limit :scan_limit) as f
                cross join lateral /*record_found*/
                where casefold((r.name || r.fields::text) collate pg_unicode_fast) like any (:patterns::text[])
               offset 0) as r
        where r.rank between :best_rank and :worst_rank
       /*order*/ /*limit*/) as r
 /*end_of_page*/;

-- name: find_relevant
-- Ranks all documents that are found, and reads the records of the page alone.
select /*record_columns*/, r.rank
  from /*object_of_page*/
 cross join lateral (
       select f.rank, r.*
         from (select *
                 from (select d.account_id, d.object_id, d.record_id,
                              -document_score(d.terms, q.words, q.name_words) as rank
                         from (select word_queries(:account_id, :object_id, :words::text[]) as words,
                                      word_queries(:account_id, :object_id, :words::text[], '!') as name_words
                               offset 0) as q
                        cross join search_documents d
                        where d.terms @@ :terms::text::tsquery
                       offset 0) as r
                where row(r.account_id, r.object_id) is not distinct from row(o.account_id, o.object_id)
                      /*position*/
               /*order*/ /*limit*/) as f
        cross join lateral /*record_found*/) as r
 /*end_of_page*/;

-- name: scan_relevant
-- Looks at the next documents in the order of their ids, no further, for those of one rank: that of the position, or else
-- the best that there can be. What is common fills its page there, and no better record comes before it.
select /*record_columns*/, r.rank
  from /*object_of_page*/
 cross join lateral (
       select f.rank, r.*
         from (select *
                 from (select d.record_id, -document_score(d.terms, q.words, q.name_words) as rank, q.rank as wanted_rank
                         from (select word_queries(:account_id, :object_id, :words::text[]) as words,
                                      word_queries(:account_id, :object_id, :words::text[], '!') as name_words,
                                      coalesce(:rank::integer, -cardinality(:words::text[]) * case when exists (
                                          select from search_documents n
                                           where n.terms @@ :name_terms::text::tsquery) then 101 else 100 end) as rank
                               offset 0) as q
                        cross join lateral (
                              select r.record_id, r.terms from search_documents r
                               where r.account_id = o.account_id and r.object_id = o.object_id /*position*/
                              /*order*/
                               limit :scan_limit) as d
                       offset 0) as r
                where r.rank = r.wanted_rank
               /*order*/ /*limit*/) as f
        cross join lateral /*record_found*/) as r
 /*end_of_page*/;

-- name: find
-- Reads the records of all documents that are found.
select /*record_columns*/
  from /*object_of_page*/
 cross join lateral (
       select r.*
         from (select d.record_id from search_documents d
                where d.terms @@ :terms::text::tsquery
                  and row(d.account_id, d.object_id) is not distinct from row(o.account_id, o.object_id)
               offset 0) as f
        cross join lateral /*record_found*/
        where true /*conditions*/ /*position*/
       /*order*/ /*limit*/) as r
 /*end_of_page*/;

-- name: count_found
-- How many documents are found, as far as the limit.
select count(*) from (select from search_documents where terms @@ :terms::text::tsquery limit :limit) as d;

-- name: count_beyond
-- How many records lie beyond a position, as far as the limit.
select count(*) from (
       select from records r where r.account_id = :account_id and r.object_id = :object_id /*position*/ /*limit*/) as r;

-- name: scan_in_order
-- Sorts all records, by what the sort needs of them alone, and looks at the documents of the next ones, no further.
-- What is common fills its page there.
select /*record_columns*/
  from /*object_of_page*/
 cross join lateral (
       select r.*
         from (select r.record_id
                 from (select r.record_id, r.name, r.created_at, r.updated_at from records r
                        where r.account_id = o.account_id and r.object_id = o.object_id /*position*/
                       /*order*/
                        limit :scan_limit) as r
                cross join lateral (
                      select terms from search_documents
                       where account_id = o.account_id and object_id = o.object_id and record_id = r.record_id
                      offset 0) as d
                where d.terms @@ :terms::text::tsquery
               /*order*/ /*limit*/) as f
        cross join lateral /*record_found*/) as r
 /*end_of_page*/;

-- name: scan
-- Looks at the next records in the order of their ids, no further: what is common fills its page there.
select /*record_columns*/
  from /*object_of_page*/
 cross join lateral (
       select *
         from (select * from records r
                where r.account_id = o.account_id and r.object_id = o.object_id /*position*/
               /*order*/
                limit :scan_limit) as r
        where true /*conditions*/
       /*order*/ /*limit*/) as r
 /*end_of_page*/;

-- name: request
-- Asks for documents, if the object has as many records as make them worth it.
update objects set search_state = 'requested'
 where account_id = :account_id
   and object_id = any (array(
       select o.object_id from objects o
        where o.account_id = :account_id and o.object_id = :object_id and o.search_state is null
          and o.deleted_at is null
          and :threshold = (select count(*) from (
                            select from records r
                             where r.account_id = o.account_id and r.object_id = o.object_id
                             limit :threshold) as r)
          for no key update skip locked));

-- name: claim_requested
select account_id, object_id from objects
 where search_state = 'requested' and deleted_at is null
 order by account_id, object_id
 limit 1;

-- name: begin
-- Under the exclusive form of the definition's lock: every writer of a record knows of it, or has committed.
update objects set search_state = 'building', searched_since = version, search_built_to = ''
 where account_id = :account_id and object_id = :object_id and search_state = 'requested' and deleted_at is null;

-- name: claim
-- One object whose documents are not all made, that no other process is at.
select account_id, object_id, version, searched_since, search_built_to, searched_fields, removals
  from objects
 where search_state = 'building' and deleted_at is null
 order by account_id, object_id
 limit 1
   for no key update skip locked;

-- name: build
-- Makes the documents of the next records in the order of their ids, but for those that a writer made. A record is
-- locked against being deleted before its document stands; whoever updates it meanwhile makes its document after this.
with next as (
    select record_id from records
     where account_id = :account_id and object_id = :object_id and record_id > :built_to
     order by record_id
     limit :limit),
locked as materialized (
    select r.record_id, r.name, r.fields, r.definition_version from records r
     where r.account_id = :account_id and r.object_id = :object_id
       and r.record_id = any (array(select record_id from next))
     order by r.record_id
       for key share of r),
made as (
    insert into search_documents as d (account_id, object_id, record_id, version, terms)
    select :account_id, :object_id, l.record_id, :version,
           search_document(:account_id, :object_id, l.name, searched_text(
               case when :removals::jsonb is null then l.fields
                    else live_fields(l.fields, l.definition_version, :removals::jsonb) end, :searched_fields))
      from locked l
     order by l.record_id
        on conflict (account_id, object_id, record_id) do update
       set version = excluded.version, terms = excluded.terms
     where d.version < :searched_since)
select max(record_id) from next;

-- name: move_on
update objects set search_built_to = :built_to where account_id = :account_id and object_id = :object_id;

-- name: finish
update objects set search_state = 'ready', search_built_to = ''
 where account_id = :account_id and object_id = :object_id;
