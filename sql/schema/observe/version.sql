-- Versions of the extension's SQL and of its library.

-- API: public
create function outbox.version(out extension text, out library text) language c stable
as 'MODULE_PATHNAME', 'outbox_version';
comment on function outbox.version is
    'Returns the version of the installed objects (extension), and that of the library that is loaded';

-- API: public
create function outbox.is_terminal(state text) returns boolean
language sql immutable strict parallel safe
return state in ('completed', 'dead', 'skipped', 'expired', 'cancelled');
comment on function outbox.is_terminal is
    'Returns whether a delivery or message in this state is not tried again by itself: true for completed, dead, skipped, '
    'expired and cancelled';

insert into outbox._capability values
    ('monitor', 'function outbox.version'),
    ('monitor', 'function outbox.is_terminal');
