-- Wrapped data keys of subjects, and their revocation.
create extension pg_outbox;
create role outbox_regress_app;
select outbox.grant_to('outbox_regress_app', 'publish');
set role outbox_regress_app;
select outbox.save_subject_key('customer-1', 'k1', '\x000102030405060708090a0b0c0d0e0f', 'master-1');
select outbox.save_subject_key('customer-1', 'k1', '\x000102030405060708090a0b0c0d0e0f', 'master-1');
select outbox.save_subject_key('customer-1', 'k2', '\x100102030405060708090a0b0c0d0e0f', 'master-1');
select outbox.save_subject_key('customer-2', 'k3', '\x200102030405060708090a0b0c0d0e0f', 'master-1');
select outbox.save_subject_key('customer-2', 'k1', '\x000102030405060708090a0b0c0d0e0f', 'master-1');
select outbox.save_subject_key('customer-2', 'k4', '\x00', 'master-1');
select outbox.save_subject_key('', 'k4', '\x000102030405060708090a0b0c0d0e0f', 'master-1');
select outbox.save_subject_key('customer-2', 'k4', null, 'master-1');
select key_id, wrapped_key, master_key, revoked_at from outbox.get_subject_key('k1');
select outbox.get_subject_key('k9');
select key_id from outbox.subject_keys('customer-1');
select count(*) from outbox.subject_keys('customer-9');
-- Only an administrator revokes and wraps again; the table of keys is not readable.
select outbox.revoke_subject_keys('customer-1', reason => 'x');
select count(*) from outbox._subject_key;
reset role;
select outbox.rewrap_subject_key('k3', '\x300102030405060708090a0b0c0d0e0f', 'master-2');
select key_id, wrapped_key, master_key, rewrapped_at is not null as rewrapped from outbox.get_subject_key('k3');
select outbox.rewrap_subject_key('k9', '\x300102030405060708090a0b0c0d0e0f', 'master-2');
select outbox.revoke_subject_keys('customer-1');
select outbox.revoke_subject_keys('customer-9', reason => 'x');
select outbox.revoke_subject_keys('customer-1', reason => repeat('x', 5000));
select outbox.revoke_subject_keys('customer-1', 'ticket 7', 'request of the customer');
select outbox.revoke_subject_keys('customer-1', 'ticket 8', 'again');
select subject, key_ids, actor, reason from outbox.revocation_certificate;
select key_id, wrapped_key, revoked_at is not null as revoked, reason from outbox.subject_keys('customer-1');
\set VERBOSITY terse
select outbox.rewrap_subject_key('k1', '\x300102030405060708090a0b0c0d0e0f', 'master-2');
set role outbox_regress_app;
select outbox.save_subject_key('customer-1', 'k1', '\x000102030405060708090a0b0c0d0e0f', 'master-1');
select outbox.save_subject_key('customer-1', 'k5', '\x500102030405060708090a0b0c0d0e0f', 'master-1');
reset role;
\set VERBOSITY verbose
-- The other subject's key is as it was, and a later key of the subject works.
select key_id, wrapped_key is not null as usable from outbox.get_subject_key('k3') union all
select key_id, wrapped_key is not null from outbox.get_subject_key('k5');
-- A certificate stays.
delete from outbox.revocation_certificate;
update outbox.revocation_certificate set reason = 'other';
drop owned by outbox_regress_app;
drop role outbox_regress_app;
