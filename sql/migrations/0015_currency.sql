-- Fields of the type currency: a decimal in one currency, which never changes.

alter table fields add column currency text;
alter table fields drop constraint fields_type_check;
alter table fields add constraint fields_type_check check (type in (
    'text', 'textarea', 'regexp', 'checkbox', 'date', 'integer', 'decimal', 'dropdown', 'multiselect', 'lookup', 'json',
    'currency'));
alter table fields add constraint fields_currency_check check (
    case when type = 'currency' then currency ~ '^[A-Z]{3}$' and currency is not null else currency is null end);

-- What a view selects by * is settled when it is made.
drop view described_fields;
create view described_fields as
select f.*, o.key as object_key, o.is_unique, o.autoincrement_enabled, o.autoincrement_prefix,
       o.autoincrement_padding, c.next_number
  from fields f
  join objects o using (account_id, object_id)
  join counters c using (account_id, object_id)
 where o.deleted_at is null;
grant select on described_fields to upsert_svc;
