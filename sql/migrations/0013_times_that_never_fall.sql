-- What a start_time of an export is compared with: a time that never falls, whatever the clock does.

alter table objects add column last_change_at timestamptz not null default '-infinity';
alter table changes add column effective_at timestamptz;
alter type record_change add attribute effective_at timestamptz;
