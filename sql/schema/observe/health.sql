-- The health report: whether all is well, and if not, what the cause is. Every value is from a state table or from shared
-- memory; no log is counted.

-- API: public
create function outbox.health() returns table ("check" text, state text, culprit text, what_to_do text)
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select c.name, coalesce(c.state, 'ok'), c.culprit, c.what_to_do
    from (
        select 'worker' as name, h.* from outbox_internal.health_worker() h
        union all
        select 'launcher', h.* from outbox_internal.health_launcher() h
        union all
        select 'identity', h.* from outbox_internal.health_identity() h
        union all
        select 'version', h.* from outbox_internal.health_version() h
        union all
        select 'sequencer', h.* from outbox_internal.health_sequencer() h
        union all
        select 'numbering', h.* from outbox_internal.health_numbering() h
        union all
        select 'subscriptions', h.* from outbox_internal.health_subscriptions() h
        union all
        select 'endpoints', h.* from outbox_internal.health_endpoints() h
        union all
        select 'deliveries', h.* from outbox_internal.health_deliveries() h
        union all
        select 'cursors', h.* from outbox_internal.health_cursors() h
        union all
        select 'projections', h.* from outbox_internal.health_projections() h
        union all
        select 'relays', h.* from outbox_internal.health_relays() h
        union all
        select 'dead letters', h.* from outbox_internal.health_dead_letters() h
        union all
        select 'faults', h.* from outbox_internal.health_faults() h
        union all
        select 'space', h.* from outbox_internal.health_space() h
        union all
        select 'maintenance', h.* from outbox_internal.health_maintenance() h
        union all
        select 'max_lag', h.* from outbox_internal.health_max_lag() h
        union all
        select 'transactions', h.* from outbox_internal.health_transactions() h
    ) c;
end;
comment on function outbox.health is
    'Returns one row per check. state: ok, warning or critical. culprit: the object, session or setting that is the cause. '
    'what_to_do: what an operator can do. Suited to an alert on state <> ''ok''';

insert into outbox._capability values
    ('monitor', 'function outbox.health');
