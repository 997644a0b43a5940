-- Secrets and keys that sign the requests to an endpoint.

-- API: private
create function outbox_internal.new_secret(ed25519 boolean) returns text language c volatile strict
as 'MODULE_PATHNAME', 'outbox_new_secret';

-- API: private
create function outbox_internal.public_key(secret text) returns text language c immutable strict
as 'MODULE_PATHNAME', 'outbox_public_key';

-- API: public
create function outbox.rotate_secret(name text, secret text default null, overlap interval default '24 h')
returns table (signing_secret text, message_id bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    known int := outbox_internal.endpoint_id(name);
    e outbox.endpoint;
    moment timestamptz := clock_timestamp();
    ed25519 boolean;
begin
    if overlap is null or overlap < interval '0' or overlap > interval '30 days' then
        raise exception 'invalid overlap' using errcode = 'invalid_parameter_value',
            hint = 'The old secret signs beside the new one for at least 0 and at most 30 days.';
    end if;
    select * into e from outbox.endpoint p where p.id = known for update;
    -- The new secret is of the same kind (v1 or v1a) as the current one.
    select starts_with(k.secret, 'whsk_') into ed25519
    from outbox.endpoint_secret k where k.endpoint_id = known order by k.created_at desc limit 1;
    signing_secret := coalesce(outbox_internal.check_secret(secret), outbox_internal.new_secret(coalesce(ed25519, false)));
    update outbox.endpoint_secret k set expires_at = least(k.expires_at, moment + overlap) where k.endpoint_id = known;
    insert into outbox.endpoint_secret (endpoint_id, created_at, secret) values (known, moment, signing_secret);
    -- At most five old secrets are kept.
    delete from outbox.endpoint_secret k
    where k.endpoint_id = known and (
        k.expires_at <= moment
        or k.created_at < (
            select min(l.created_at) from (
                select o.created_at from outbox.endpoint_secret o
                where o.endpoint_id = known order by o.created_at desc limit 6
            ) l
        )
    );
    message_id := outbox_internal.endpoint_changed(e, 'secret rotated');
    perform outbox_internal.audit('rotate_secret', format('endpoint %s', name), null, jsonb_build_object('overlap', overlap));
    return next;
end
$$;
comment on function outbox.rotate_secret is
    'Gives an endpoint a new secret, and returns it with the id of a control message; it is shown nowhere else. secret: '
    'null makes a new one. The old secret signs too until overlap has passed (default 24 h, 0 to 30 days). Recorded in '
    'outbox.audit, without the secret. Errors: OB001 no such endpoint, 22023 secret or overlap is invalid';

-- API: public
create function outbox.public_keys(endpoint text)
returns table (public_key text, created_at timestamptz, expires_at timestamptz)
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
    select outbox_internal.public_key(k.secret), k.created_at, k.expires_at
    from outbox.endpoint_secret k
    where k.endpoint_id = outbox_internal.endpoint_id(endpoint) and outbox_internal.public_key(k.secret) is not null
    order by k.created_at desc;
end;
comment on function outbox.public_keys is
    'Returns the public keys with which receivers verify v1a signatures of an endpoint, the current one first; no rows for '
    'v1. Errors: OB001 no such endpoint';

insert into outbox._capability values
    ('admin', 'function outbox.rotate_secret'),
    ('monitor', 'function outbox.public_keys');
