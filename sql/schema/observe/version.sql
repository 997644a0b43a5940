-- Versions of the extension's SQL and of its library.

-- API: public
create function outbox.version(out extension text, out library text) language c stable
as 'MODULE_PATHNAME', 'outbox_version';
comment on function outbox.version is 'Version of the installed objects, and of the library that is loaded';

-- API: public
create function outbox.is_terminal(state text) returns boolean
language sql immutable strict parallel safe
return state in ('completed', 'dead', 'skipped', 'expired', 'cancelled');
comment on function outbox.is_terminal is 'Whether a delivery or message in this state is not tried again by itself';

insert into outbox._capability values
    ('monitor', 'function outbox.version'),
    ('monitor', 'function outbox.is_terminal');
