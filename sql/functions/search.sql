-- Searches for words and for parts of names, and the documents that they read.

-- The words of a text: what stands between letters and digits separates them. They are compared as unique names are,
-- and by their first 64 characters.
create or replace function search_words(p_text text) returns text[] language plpgsql immutable strict parallel safe as $$
begin
    return array(select left(word, 64)
                   from unnest(regexp_split_to_array(name_key(p_text) collate pg_unicode_fast, '[^[:alnum:]]+')) as word
                  where word <> '');
end $$;

-- What a search for words reads of a record's fields.
create or replace function searched_text(p_fields jsonb, p_keys text[]) returns text
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
create or replace function search_score(p_words text[], p_name text, p_text text) returns integer
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
create or replace function search_document(p_account_id integer, p_object_id integer, p_name text, p_text text) returns tsvector
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
create or replace function word_queries(p_account_id integer, p_object_id integer, p_words text[], p_mark text default '.')
returns tsquery[] language plpgsql immutable parallel safe as $$
begin
    return array(select ('''' || p_account_id || '.' || p_object_id || p_mark || word || ''':*')::tsquery
                   from unnest(p_words) as word);
end $$;

-- A query for the documents of the names that may contain a text, by its first 255 characters; null for an empty one,
-- which all contain.
create or replace function name_query(p_account_id integer, p_object_id integer, p_part text) returns tsquery
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

-- What search_score answers for a record, from its document.
create or replace function document_score(p_terms tsvector, p_words tsquery[], p_name_words tsquery[]) returns integer
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
-- documents. In the order of their ids, as the backfill makes them.
create or replace function keep_documents(p_account_id integer, p_writes record_write[], p_results written_record[],
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
