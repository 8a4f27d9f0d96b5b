-- Searches for words, and the documents that they find records by.

alter table objects
  add column searched_fields text[] not null default '{}',
  add column search_state text,
  add column searched_since integer,
  add column search_filled_to text not null default '',
  add constraint objects_search_state_check check (search_state in ('wanted', 'filling', 'kept'));
update objects o
   set searched_fields = array(select f.key from fields f
                                where f.account_id = o.account_id and f.object_id = o.object_id
                                  and not f.system and f.active and f.type in ('text', 'textarea', 'regexp')
                                order by f.position);

create index objects_search_idx on objects (account_id, object_id) where search_state in ('wanted', 'filling');

create table search_documents (
    account_id integer not null,
    object_id  integer not null,
    version    integer not null,  -- the definition's, as the document was made
    record_id  text collate "C" not null,
    terms      tsvector not null,
    primary key (account_id, object_id, record_id)
);
create index search_documents_terms_idx on search_documents using gin (terms) with (gin_pending_list_limit = 1024);

grant select, insert, update, delete on search_documents to upsert_svc;

create or replace function name_key(p_name text) returns text language plpgsql immutable strict parallel safe as $$
begin
    if octet_length(p_name) = char_length(p_name) then
        return lower(p_name collate "C");  -- the same for ASCII, and spares it the normalizations
    end if;
    -- nearly every text is normalized, and to see that takes a fraction of doing it
    if p_name is not nfc normalized then
        p_name := normalize(p_name, nfc);
    end if;
    p_name := casefold(p_name collate pg_unicode_fast);
    return case when p_name is nfc normalized then p_name else normalize(p_name, nfc) end;
end $$;

-- The words of a text: what stands between letters and digits separates them. They are compared as unique names are,
-- and by their first 64 characters.
create function search_words(p_text text) returns text[] language plpgsql immutable strict parallel safe as $$
begin
    return array(select left(word, 64)
                   from unnest(regexp_split_to_array(name_key(p_text) collate pg_unicode_fast, '[^[:alnum:]]+')) as word
                  where word <> '');
end $$;

-- What a search for words reads of a record's fields.
create function searched_text(p_fields jsonb, p_keys text[]) returns text
language plpgsql immutable parallel safe as $$
declare
    v_key  text;
    v_text text := '';
begin
    foreach v_key in array p_keys loop
        if p_fields ? v_key then
            v_text := v_text || ' ' || (p_fields ->> v_key);
        end if;
    end loop;
    return v_text;
end $$;

-- How well a record fits words: 100 for each word that a word of it begins with, and one more where that is a word of
-- the name. So more words go before words in the name.
create function search_score(p_words text[], p_name text, p_text text) returns integer
language plpgsql immutable parallel safe as $$
declare
    v_all   text := name_key(p_name || ' ' || p_text);
    v_word  text;
    v_score integer := 0;
begin
    foreach v_word in array p_words loop
        -- a word is letters and digits, so it is a pattern for itself; strpos spares most texts the pattern
        if strpos(v_all, v_word) > 0 and v_all collate pg_unicode_fast ~ ('(?<![[:alnum:]])' || v_word) then
            v_score := v_score + 100
                       + (name_key(p_name) collate pg_unicode_fast ~ ('(?<![[:alnum:]])' || v_word))::integer;
        end if;
    end loop;
    return v_score;
end $$;

-- The search document of a record: the words of its name and of its text, and every three characters of its name, the
-- last of them fewer.
create function search_document(p_account_id integer, p_object_id integer, p_name text, p_text text) returns tsvector
language plpgsql immutable parallel safe as $$
declare
    v_scope text := p_account_id || '.' || p_object_id;
    v_name  text := name_key(p_name);
begin
    return array_to_tsvector(
        array(select v_scope || '.' || word from unnest(search_words(p_name || ' ' || p_text)) as word)
        || array(select v_scope || '!' || word from unnest(search_words(p_name)) as word)
        || array(select v_scope || '~' || substr(v_name, place, 3)
                   from generate_series(1, char_length(v_name)) as place));
end $$;

-- For each word a query for the documents in which a word begins with it, of the name alone where the mark is '!'.
create function word_queries(p_account_id integer, p_object_id integer, p_words text[], p_mark text default '.')
returns tsquery[] language plpgsql immutable parallel safe as $$
begin
    return array(select ('''' || p_account_id || '.' || p_object_id || p_mark || word || ''':*')::tsquery
                   from unnest(p_words) as word);
end $$;

-- A query for the documents of the names that may contain a text, by its first 255 characters; null for an empty one,
-- which all contain.
create function name_query(p_account_id integer, p_object_id integer, p_part text) returns tsquery
language plpgsql immutable parallel safe as $$
declare
    v_part text := left(name_key(p_part), 255);
begin
    return (select string_agg('''' || p_account_id || '.' || p_object_id || '~'
                              || replace(replace(substr(v_part, place, 3), '\', '\\'), '''', '''''')
                              || case when char_length(v_part) < 3 then ''':*' else '''' end, ' & ')
              from generate_series(1, greatest(char_length(v_part) - 2, least(char_length(v_part), 1))) as place
           )::tsquery;
end $$;

-- What search_score tells of a record, told by its document.
create function document_score(p_terms tsvector, p_words tsquery[], p_name_words tsquery[]) returns integer
language plpgsql immutable parallel safe as $$
declare
    v_score integer := 0;
begin
    for v_place in 1 .. coalesce(array_length(p_words, 1), 0) loop
        if p_terms @@ p_words[v_place] then
            v_score := v_score + case when p_terms @@ p_name_words[v_place] then 101 else 100 end;
        end if;
    end loop;
    return v_score;
end $$;

-- Makes the documents of the records that the writes at these positions created or updated, where their object keeps
-- documents. In the order of their ids, as the filling makes them.
create function keep_documents(p_account_id integer, p_writes record_write[], p_results written_record[],
                               p_positions integer[]) returns void language plpgsql as $$
begin
    insert into search_documents (account_id, object_id, record_id, version, terms)
    select p_account_id, n.object_id, n.record_id, n.version, n.terms
      from (select w.object_id, r.record_id, o.version, o.searched_since,
                   search_document(p_account_id, w.object_id, r.name,
                                   searched_text(r.fields, o.searched_fields)) as terms
              from unnest(p_results) as s
              join unnest(p_writes) as w on w.position = s.position
             cross join lateral (
                   select * from objects
                    where account_id = p_account_id and object_id = w.object_id and searched_since is not null
                   offset 0) as o
             cross join lateral (
                   select * from records
                    where account_id = p_account_id and object_id = w.object_id and record_id = s.record_id
                   offset 0) as r
             where s.position = any (p_positions) and s.outcome in ('created', 'updated')
            offset 0) as n
     where not exists (
           select from search_documents d
            where d.account_id = p_account_id and d.object_id = n.object_id and d.record_id = n.record_id
              and d.version >= n.searched_since and d.terms = n.terms)
     order by n.object_id, n.record_id
        on conflict (account_id, object_id, record_id) do update
       set version = excluded.version, terms = excluded.terms;
end $$;

create or replace function update_records(p_account_id integer, p_by text, p_writes record_write[])
returns written_record[] language plpgsql as $$
declare
    v_results written_record[];
    v_changes record_change[];
    v_changed bigint;
    v_sought  integer[];
begin
    select array_agg(
               row(j.position, j.outcome,
                   case j.outcome when 'field_required' then missing_keys(j.required_fields, j.fields)
                                  when 'type_differs' then type_conflicts(j.old_fields, j.fields) end,
                   j.record_id, j.name, j.external_id, j.null_fields || (j.fields - j.inactive_fields),
                   j.version, j.created_at, j.updated_at, j.created_by_user_id, j.updated_by_user_id)::written_record),
           array_agg(
               row(j.place, j.fields, j.name, j.external_id, j.version, j.updated_at, j.updated_by_user_id,
                   j.definition_version,
                   case when j.strategy is null and j.json_fields is null then j.patch
                        else replaced_fields(j.old_fields, j.fields) end)::record_change) filter (where j.outcome = 'updated'),
           array_agg(j.position) filter (where case when j.searched_since is not null and j.outcome = 'updated'
               then j.name <> j.old_name
                    or searched_text(j.fields, j.searched_fields) <> searched_text(j.old_fields, j.searched_fields) end)
      into v_results, v_changes, v_sought
      from (select m.*, o.outcome,
                   m.old_version + (o.outcome = 'updated')::integer as version,
                   -- not now(): this statement may have waited behind a later one
                   case when o.outcome = 'updated' then greatest(clock_timestamp(), m.old_updated_at)
                        else m.old_updated_at end as updated_at,
                   case when o.outcome = 'updated' then m.user_id else m.old_user_id end as updated_by_user_id
              from (select s.*,
                           case when s.strategy is null and s.json_fields is null
                                then jsonb_strip_nulls(s.old_fields || s.patch)
                                when s.json_fields is null and s.inactive_fields = '{}' and s.strategy <> 'merge'
                                then jsonb_strip_nulls(s.patch)
                                else resulting_fields(s.strategy, s.old_fields, s.patch, s.inactive_fields,
                                                      s.json_fields) end as fields
                      from (select f.position, f.object_id, f.user_id, f.definition_version, f.patch,
                                   f.strategy, f.if_match, f.if_none_match,
                                   f.null_fields, f.inactive_fields, f.required_fields, f.json_fields,
                                   f.searched_since, f.searched_fields,
                                   r.place, r.record_id, r.naming, r.created_at, r.created_by_user_id,
                                   r.version as old_version, r.updated_at as old_updated_at,
                                   r.updated_by_user_id as old_user_id,
                                   r.name as old_name, coalesce(f.name, r.name) as name,
                                   r.external_id as old_external_id,
                                   case when f.clears_external_id then null
                                        else coalesce(f.external_id, r.external_id) end as external_id,
                                   case when p_by = 'name' then name_key(f.name) = r.name_key end as respelt,
                                   case when f.removals is null then r.fields
                                        else live_fields(r.fields, r.definition_version, f.removals) end as old_fields
                              from (select distinct on (w.object_id, found_id)
                                           w.*, o.null_fields, o.inactive_fields, o.required_fields, o.json_fields,
                                           o.removals, o.searched_since, o.searched_fields,
                                           -- as find_record does, without the cost of a call
                                           case p_by when 'external_id' then (
                                                    select record_id from records
                                                     where account_id = p_account_id and object_id = w.object_id
                                                       and external_id = w.identifier and external_id is not null)
                                                when 'name' then (
                                                    select record_id from records
                                                     where account_id = p_account_id and object_id = w.object_id
                                                       and name_key = name_key(w.identifier) and name_key is not null)
                                                else w.identifier end as found_id
                                      from unnest(p_writes) as w
                                     cross join lateral (
                                           select * from objects
                                            where account_id = p_account_id and object_id = w.object_id
                                           offset 0) as o
                                     where o.version = w.definition_version and o.deleted_at is null
                                     order by w.object_id, found_id, w.position) as f
                             cross join lateral (
                                   select r.*, r.ctid as place from records r
                                    where r.account_id = p_account_id and r.object_id = f.object_id
                                      and r.record_id = f.found_id
                                      -- looked at again once the lock is held: it may have been re-keyed meanwhile
                                      and case p_by when 'external_id' then r.external_id = f.identifier
                                                    when 'name' then r.name_key = name_key(f.identifier)
                                                    else true end
                                      for no key update of r) as r
                            offset 0) as s
                    offset 0) as m
             cross join lateral (
                   select case when coalesce(m.if_match, m.if_none_match) is not null
                                    and not conditions_hold(m.if_match, m.if_none_match,
                                            entity_tag(m.record_id, m.old_version, m.definition_version))
                                    then 'precondition_failed'
                               when m.respelt is false then 'name_differs'
                               when m.strategy is not null and m.name <> m.old_name and m.naming like 'autonumber:%'
                                    then 'name_generated'
                               when not m.fields ?& m.required_fields then 'field_required'
                               -- not by AND, which looks at its other half when the first is null
                               when case when m.strategy = 'replace'
                                         then type_conflicts(m.old_fields, m.fields) <> '{}' end
                                    then 'type_differs'
                               when is_too_large(m.fields, m.name, m.external_id) then 'too_large'
                               when m.external_id is distinct from m.old_external_id
                                    and find_record(p_account_id, m.object_id, 'external_id', m.external_id) <> m.record_id
                                    then 'external_id_taken'
                               when m.name <> m.old_name and m.naming like 'unique:%'
                                    and find_record(p_account_id, m.object_id, 'name', m.name) <> m.record_id
                                    then 'name_taken'
                               when m.fields <> m.old_fields or m.name <> m.old_name
                                    or m.external_id is distinct from m.old_external_id
                                    -- to jsonb 1.0 and 1.00 are equal
                                    or m.fields::text <> m.old_fields::text then 'updated'
                               else 'unchanged' end as outcome
                   offset 0) as o
            offset 0) as j;

    if v_changes is not null then
        -- The locks hold the records where they are.
        with updated as (
            update records r
               set fields = c.fields, name = c.name, external_id = c.external_id, version = c.version,
                   updated_at = c.updated_at, updated_by_user_id = c.updated_by_user_id,
                   definition_version = c.definition_version, changed_in = pg_current_xact_id()
              from unnest(v_changes) as c
             where r.ctid = c.place
         returning new.account_id, new.object_id, old.changed_in as previous_transaction_id, new.updated_at,
                   new.version, new.updated_by_user_id, new.record_id, new.name, new.external_id, c.sent)
        insert into changes (account_id, object_id, previous_transaction_id, changed_at, version, user_id, kind,
                             record_id, name, external_id, fields)
        select account_id, object_id, previous_transaction_id, updated_at, version, updated_by_user_id, 'updated',
               record_id, name, external_id, sent
          from updated;
        get diagnostics v_changed = row_count;
        if v_changed <> cardinality(v_changes) then
            perform rivals_interfered();
        end if;
    end if;
    if v_sought is not null then
        perform keep_documents(p_account_id, p_writes, v_results, v_sought);
    end if;
    return coalesce(v_results, '{}');
end $$;

create or replace function create_records(p_account_id integer, p_by text, p_writes record_write[])
returns written_record[] language plpgsql as $$
declare
    v_results written_record[];
    v_sought  integer[];
begin
    -- The counter is locked first and the identifier looked up once more under that lock, or a
    -- racer for it would have numbered a record that it cannot write, and given its batch up.
    perform from counters c
      where c.account_id = p_account_id and c.object_id = any (array(select w.object_id from unnest(p_writes) as w))
        and (select o.autoincrement_enabled from objects o
              where o.account_id = p_account_id and o.object_id = c.object_id)
      order by c.object_id
        for update;
    with missing as materialized (
        select w.position, w.object_id, w.definition_version, w.identifier, w.record_id, w.user_id,
               w.strategy, w.if_match,
               coalesce(w.name, case when p_by = 'name' then w.identifier end) as name,
               coalesce(w.external_id, case when p_by = 'external_id' then w.identifier end) as external_id,
               case when o.json_fields is null then jsonb_strip_nulls(w.patch)
                    else resulting_fields(case when p_by = 'none' then 'force' else w.strategy end, '{}', w.patch,
                                          '{}', o.json_fields) end as fields, o.*
          from unnest(p_writes) as w
         cross join lateral (
               select naming, is_unique, autoincrement_enabled, autoincrement_prefix, null_fields, inactive_fields,
                      required_fields, json_fields, searched_since
                 from objects
                where account_id = p_account_id and object_id = w.object_id
               offset 0) as o
         where p_by = 'none'
            or find_record(p_account_id, w.object_id, p_by, w.identifier) is null),
    judged as materialized (
        select m.*,
               case when p_by = 'record_id' then 'missing'
                    when not conditions_hold(m.if_match, null, null) then 'precondition_failed'
                    when m.strategy is not null and m.name is not null and m.autoincrement_enabled
                         then 'name_generated'
                    when p_by = 'name' and name_key(m.name) <> name_key(m.identifier) then 'name_differs'
                    when m.name is null and not m.autoincrement_enabled then 'name_required'
                    when not m.fields ?& m.required_fields then 'field_required'
                    -- a number has at most 19 digits
                    when is_too_large(m.fields, coalesce(m.name, m.autoincrement_prefix || repeat('0', 19)), m.external_id)
                         then 'too_large'
                    when m.external_id is not null and p_by <> 'external_id'
                         and find_record(p_account_id, m.object_id, 'external_id', m.external_id) is not null
                         then 'external_id_taken'
                    when m.is_unique and p_by <> 'name'
                         and find_record(p_account_id, m.object_id, 'name', m.name) is not null then 'name_taken'
                    else 'created' end as outcome
          from missing m),
    -- A number written by hand ahead of the counter is stepped over.
    counted as (
        select c.object_id, greatest(c.next_number, (
                   select max(r.number) + 1 from records r
                    where r.account_id = p_account_id and r.object_id = c.object_id
                      and r.number is not null)) as next_number
          from counters c
         where c.account_id = p_account_id and c.object_id = any (array(
               select j.object_id from judged j where j.autoincrement_enabled))),
    numbered as materialized (
        select j.*, n.number, coalesce(j.name, autonumber_name(j.naming, n.number)) as given_name,
               clock_timestamp() as created_at
          from (select j.*, row_number() over (partition by j.object_id order by j.position) as place
                  from judged j where j.outcome = 'created') as j
         cross join lateral (
               select case when j.autoincrement_enabled then (
                      select c.next_number from counted c where c.object_id = j.object_id) + j.place - 1 end as number
               offset 0) as n),
    written as (
        insert into records as r (
            account_id, object_id, record_id, naming, number, name, external_id, fields,
            definition_version, created_by_user_id, updated_by_user_id, created_at, updated_at)
        select p_account_id, n.object_id, n.record_id, n.naming, n.number, n.given_name, n.external_id, n.fields,
               n.definition_version, n.user_id, n.user_id, n.created_at, n.created_at
          from numbered n
         order by n.object_id, n.external_id, n.name
            on conflict do nothing
     returning r.*),
    told as (
        insert into changes (account_id, object_id, changed_at, version, user_id, kind,
                             record_id, name, external_id, fields)
        select account_id, object_id, created_at, version, created_by_user_id, 'created',
               record_id, name, external_id, fields
          from written),
    -- Numbers between those written would be burnt when a rival took an identifier just now.
    raised as (
        update counters c
           set next_number = case when t.written = t.numbered then t.next_number else rivals_interfered() end
          from (select n.object_id, max(n.number) + 1 as next_number, count(*) as numbered,
                       (select count(*) from written w where w.object_id = n.object_id) as written
                  from numbered n
                 where n.number is not null
                 group by n.object_id) t
         where c.account_id = p_account_id and c.object_id = t.object_id and t.written > 0),
    results as (
        select row(n.position, n.outcome, null, n.record_id, n.given_name, n.external_id,
                   n.null_fields || (n.fields - n.inactive_fields), 1, n.created_at, n.created_at,
                   n.user_id, n.user_id)::written_record as result
          from numbered n
         where n.record_id = any (array(select record_id from written))
         union all
        select row(j.position, j.outcome,
                   case when j.outcome = 'field_required' then missing_keys(j.required_fields, j.fields) end,
                   null, null, null, null, null, null, null, null, null)::written_record
          from judged j
         where j.outcome <> 'created')
    select array_agg(result), (select array_agg(n.position) from numbered n where n.searched_since is not null)
      into v_results, v_sought
      from results;
    if v_sought is not null then
        perform keep_documents(p_account_id, p_writes, v_results, v_sought);
    end if;
    return coalesce(v_results, '{}');
end $$;

create or replace function delete_record(p_account_id integer, p_object_id integer, p_by text, p_identifier text,
                              p_user_id integer, p_if_match text[], p_if_none_match text[])
returns text language plpgsql as $$
declare
    v_record    records;
    v_tombstone tombstones;
begin
    loop
        select r.* into v_record
          from records r
         where r.account_id = p_account_id and r.object_id = p_object_id
           and r.record_id = find_record(p_account_id, p_object_id, p_by, p_identifier)
           -- looked at again once the lock is held: it may have been re-keyed meanwhile
           and case p_by when 'external_id' then r.external_id = p_identifier
                         when 'name' then r.name_key = name_key(p_identifier) else true end
           for update;
        exit when found;
        if find_record(p_account_id, p_object_id, p_by, p_identifier) is null then
            return 'missing';
        end if;
    end loop;
    if not conditions_hold(p_if_match, p_if_none_match, entity_tag(
            v_record.record_id, v_record.version,
            (select version from objects where account_id = p_account_id and object_id = p_object_id))) then
        return 'precondition_failed';
    end if;
    delete from records
     where account_id = p_account_id and object_id = p_object_id and record_id = v_record.record_id;
    delete from search_documents
     where account_id = p_account_id and object_id = p_object_id and record_id = v_record.record_id;
    insert into tombstones (account_id, object_id, record_id, name, external_id, deleted_at, deleted_by_user_id,
                            fields, version, created_at, created_by_user_id)
    values (p_account_id, p_object_id, v_record.record_id, v_record.name, v_record.external_id,
            greatest(clock_timestamp(), v_record.updated_at), p_user_id,
            v_record.fields, v_record.version + 1, v_record.created_at, v_record.created_by_user_id)
    returning * into v_tombstone;
    insert into changes (account_id, object_id, previous_transaction_id, changed_at, version, user_id, kind,
                         record_id, name, external_id)
    values (p_account_id, p_object_id, v_record.changed_in, v_tombstone.deleted_at, v_tombstone.version,
            p_user_id, 'deleted', v_record.record_id, v_record.name, v_record.external_id);
    return 'deleted';
end $$;
