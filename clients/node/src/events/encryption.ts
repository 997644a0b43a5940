/**
 * Encryption of fields of events. The fields that an application names are encrypted before they leave the process, with a data
 * key of the event or of its subject. A provider wraps the data keys with a master key that the database never sees.
 *
 * Metadata of an encrypted event: `encrypted_fields` (the paths), and `key_id` (key of a subject, which the server stores), or
 * `wrapped_key` (base64) and `master_key` (key of the event).
 *
 * The rows of the subjects' keys are read with every page of events, in one statement, so that a revoked key has an effect at once;
 * only the unwrapping is cached.
 */

import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';

import { run, type Executor } from '../client/driver.js';
import { OutboxError, typed } from '../client/errors.js';
import { Outbox } from '../client/outbox.js';
import { argument } from '../client/sql.js';
import { positive } from '../work/time.js';
import { checkKey, decryptFields, emptyFields, encryptFields, hasField, KEY_LENGTH, newKey, parsePaths, unwrapKey, wrapKey, type Path } from './cipher.js';
import { EncryptionError, KeyNotFoundError, KeyRevokedError } from './errors.js';

/** Wraps and unwraps data keys of 32 bytes with master keys that it has by name. */
export interface KeyProvider {
    /** The master key that wraps new data keys, unless the encryption names another one. */
    readonly masterKey: string;
    wrap(dataKey: Uint8Array, masterKey: string): Promise<Uint8Array>;
    /** Throws a {@link KeyNotFoundError} if there is no such master key. */
    unwrap(wrapped: Uint8Array, masterKey: string): Promise<Uint8Array>;
}

/** Master keys of 32 bytes in this process. */
export class LocalKeys implements KeyProvider {
    readonly masterKey: string;
    readonly #keys: Map<string, Uint8Array>;

    /** `keys`: bytes by name. `masterKey` wraps new data keys; the default is the last one. The other keys still decrypt. */
    constructor(keys: Record<string, Uint8Array>, masterKey?: string) {
        this.#keys = new Map(Object.entries(keys));
        for (const key of this.#keys.values()) checkKey(key);
        const name = masterKey ?? [...this.#keys.keys()].at(-1);
        if (name === undefined || !this.#keys.has(name)) throw unknownMaster(name ?? '');
        this.masterKey = name;
    }

    /** Reads keys in base64 or hexadecimal from variables of the environment: `{ 'master-2026': 'EVENT_KEY_2026' }`. */
    static fromEnvironment(variables: Record<string, string>, masterKey?: string): LocalKeys {
        const keys = Object.entries(variables).map(([name, variable]): [string, Buffer] => {
            const text = process.env[variable];
            if (!text) throw new KeyNotFoundError(`the environment variable ${variable} is not set`, '42704');
            return [name, keyOf(text)];
        });
        return new LocalKeys(Object.fromEntries(keys), masterKey);
    }

    /** Reads keys from files, which hold 32 bytes, or their base64 or hexadecimal: `{ 'master-2026': '/run/secrets/events' }`. */
    static fromFiles(files: Record<string, string>, masterKey?: string): LocalKeys {
        const keys = Object.entries(files).map(([name, file]): [string, Buffer] => {
            const content = readFileSync(file);
            return [name, content.length === KEY_LENGTH ? content : keyOf(content.toString('latin1'))];
        });
        return new LocalKeys(Object.fromEntries(keys), masterKey);
    }

    #key(name: string): Uint8Array {
        const key = this.#keys.get(name);
        if (key === undefined) throw unknownMaster(name);
        return key;
    }

    async wrap(dataKey: Uint8Array, masterKey: string): Promise<Uint8Array> {
        return wrapKey(this.#key(masterKey), masterKey, dataKey);
    }

    async unwrap(wrapped: Uint8Array, masterKey: string): Promise<Uint8Array> {
        return unwrapKey(this.#key(masterKey), masterKey, wrapped);
    }

    /** Shows no key. */
    toJSON(): object {
        return { masterKey: this.masterKey };
    }
}

const unknownMaster = (name: string) => new KeyNotFoundError(`there is no master key "${name.slice(0, 64)}"`, '42704');

function keyOf(text: string): Buffer {
    const trimmed = text.trim();
    const key = /^[0-9a-fA-F]{64}$/.test(trimmed) ? Buffer.from(trimmed, 'hex') : Buffer.from(trimmed, 'base64');
    checkKey(key);
    return key;
}

/** An event that is about to be encrypted. */
export interface Plain {
    stream: string;
    type: string;
    data: any;
    metadata: Record<string, unknown>;
    tenant: string | null;
}

/**
 * Gets an event whose key is revoked or which is damaged, and returns its data, or throws. `data` has the encrypted fields as they are
 * stored. A key that is not known, or a provider that does not answer or refuses, is always an error.
 */
export type OnUndecryptable = (event: Plain, error: EncryptionError) => unknown;

/** Settings of {@link FieldEncryption}. */
export interface EncryptionOptions {
    provider: KeyProvider;
    /** The paths of the fields by event type: `{ 'customer.named': ['name', 'address.street'] }`. */
    fields: Record<string, readonly string[]>;
    /** One data key per event, which is stored in it, or one per subject, which can be revoked. The default is `event`. */
    keyPer?: 'event' | 'subject';
    /** The subject of an event, with `keyPer: 'subject'`. The default is its stream. */
    subject?: (event: Plain) => string;
    /** The name of the master key, or a function of the tenant. The default is that of the provider. */
    masterKey?: string | ((tenant: string | null) => string);
    /** The default gives an event whose key is revoked with nulls and `redacted: true`, and throws all other errors. */
    onUndecryptable?: OnUndecryptable;
    /** The largest number of unwrapped data keys that are kept in memory. The default is 1000. */
    cacheSize?: number;
}

const ENTRIES = ['encrypted_fields', 'key_id', 'wrapped_key', 'master_key'];

/** Whether an event has encrypted fields. */
export const isEncrypted = (metadata: Record<string, unknown>): boolean => metadata.encrypted_fields !== undefined;

/** Returns metadata without the entries of another event's encryption. */
export function withoutEncryption(metadata: Record<string, unknown>): Record<string, unknown> {
    if (!isEncrypted(metadata)) return metadata;
    return Object.fromEntries(Object.entries(metadata).filter(([name]) => !ENTRIES.includes(name)));
}

/** Encrypts fields of events when they are appended, and decrypts them when they are loaded. */
export class FieldEncryption {
    readonly #options: EncryptionOptions;
    readonly #fields: Map<string, readonly Path[]>;
    readonly #cacheSize: number;
    /** Unwrapped keys, by the wrapped key. The one that was used last is at the end. */
    readonly #cache = new Map<string, Uint8Array>();

    constructor(options: EncryptionOptions) {
        this.#options = options;
        this.#fields = new Map(Object.entries(options.fields).map(([type, paths]) => [type, parsePaths(paths)]));
        this.#cacheSize = positive(options.cacheSize, 1000, 'cacheSize', true);
    }

    #master(tenant: string | null): string {
        const { masterKey, provider } = this.#options;
        return (typeof masterKey === 'function' ? masterKey(tenant) : masterKey) ?? provider.masterKey;
    }

    async #unwrapped(wrapped: Uint8Array, masterKey: string): Promise<Uint8Array> {
        const id = `${masterKey}\0${Buffer.from(wrapped).toString('base64')}`;
        const known = this.#cache.get(id);
        const key = known ?? (await this.#options.provider.unwrap(wrapped, masterKey));
        checkKey(key);
        this.#cache.delete(id);
        this.#cache.set(id, key);
        if (this.#cache.size > this.#cacheSize) this.#cache.delete(this.#cache.keys().next().value!);
        return key;
    }

    /** Throws if the metadata of the caller has an entry of the encryption, for an event of a type that is encrypted. */
    checkMetadata(type: string, metadata: Record<string, unknown>): void {
        if (!this.#fields.get(type)?.length) return;
        const taken = ENTRIES.find((name) => Object.hasOwn(metadata, name));
        if (taken !== undefined) throw new EncryptionError(`metadata "${taken}" of an event of type "${type}" is that of its encryption`, '22023');
    }

    /** Forgets all keys that are in memory. */
    forget(): void {
        this.#cache.clear();
    }

    /** Encrypts the fields of events in place, in the transaction that appends them. */
    async seal(tx: Executor, events: Plain[]): Promise<void> {
        const subjects = new Map<string, { id: string; key: Uint8Array }>();
        for (const event of events) {
            const paths = this.#fields.get(event.type) ?? [];
            if (!hasField(event.data, paths)) continue;
            let key: Uint8Array;
            let entries: Record<string, unknown>;
            if (this.#options.keyPer === 'subject') {
                const subject = this.#subject(event);
                let known = subjects.get(subject);
                if (known === undefined) subjects.set(subject, (known = await this.#keyOf(tx, subject, event.tenant)));
                key = known.key;
                entries = { key_id: known.id };
            } else {
                key = newKey();
                const master = this.#master(event.tenant);
                entries = { wrapped_key: Buffer.from(await this.#options.provider.wrap(key, master)).toString('base64'), master_key: master };
            }
            const encrypted = encryptFields(key, event.data, event, paths);
            Object.assign(event.metadata, { encrypted_fields: encrypted, ...entries });
        }
    }

    #subject(event: Plain): string {
        const { subject } = this.#options;
        if (subject === undefined) return event.stream;
        const name: unknown = subject(event);
        if (typeof name === 'string' && name !== '') return name;
        throw new EncryptionError(`an event of type "${event.type}" has no subject`, '22023', { hint: 'subject() returns a text that is not empty.' });
    }

    /** Returns the newest key of a subject that is not revoked. If there is none, it makes one in this transaction. */
    async #keyOf(tx: Executor, subject: string, tenant: string | null): Promise<{ id: string; key: Uint8Array }> {
        const outbox = new Outbox(tx);
        const row = (await outbox.subjectKeys({ subject })).findLast((one) => one.wrappedKey !== null);
        if (row !== undefined) return { id: row.keyId, key: await this.#unwrapped(row.wrappedKey!, row.masterKey) };
        const id = `key_${randomUUID()}`;
        const key = newKey();
        const masterKey = this.#master(tenant);
        const wrappedKey = await this.#options.provider.wrap(key, masterKey);
        await outbox.saveSubjectKey({ subject, keyId: id, wrappedKey, masterKey });
        return { id, key };
    }

    /** Decrypts the fields of events in place, and returns those of them whose key is revoked or that a handler has replaced. */
    async open(client: Executor, events: Plain[]): Promise<Set<Plain>> {
        const locked = events.filter(({ metadata }) => isEncrypted(metadata));
        const rows = await keysOf(client, [...new Set(locked.map(({ metadata }) => keyId(metadata)).filter((id) => id !== undefined))]);
        const redacted = new Set<Plain>();
        for (const event of locked) {
            const paths = checkedPaths(event);
            try {
                decryptFields(await this.#key(event.metadata, rows), event.data, event, parsePaths(paths));
            } catch (error) {
                if (!isUndecryptable(error)) throw typed(error);
                if (this.#options.onUndecryptable) event.data = await this.#options.onUndecryptable(event, error);
                else if (error instanceof KeyRevokedError) emptyFields(event.data, paths);
                else throw error;
                redacted.add(event);
            }
        }
        return redacted;
    }

    async #key(metadata: Record<string, unknown>, rows: Map<string, KeyRow>): Promise<Uint8Array> {
        const { wrapped_key: wrapped, master_key: master } = metadata;
        if (typeof wrapped === 'string' && typeof master === 'string') return this.#unwrapped(Buffer.from(wrapped, 'base64'), master);
        const id = keyId(metadata);
        if (id === undefined) throw new EncryptionError('the metadata of an encrypted event names no key', '22023');
        const { wrappedKey, masterKey } = rows.get(id)!;
        if (wrappedKey === null) throw new KeyRevokedError(`the key "${id.slice(0, 64)}" is revoked`, 'OB004');
        return this.#unwrapped(wrappedKey, masterKey);
    }
}

/** Returns the id of the subject's key of an encrypted event. Undefined: it has a key of its own, or none. */
function keyId({ wrapped_key: wrapped, key_id: id }: Record<string, unknown>): string | undefined {
    return typeof id === 'string' && typeof wrapped !== 'string' ? id : undefined;
}

/** Whether an event stays undecryptable. An unknown key is a mistake, and what a provider refuses now it may answer later. */
function isUndecryptable(error: unknown): error is EncryptionError {
    if (error instanceof KeyRevokedError) return true;
    return error instanceof EncryptionError && !(error instanceof KeyNotFoundError) && error.code === '22023';
}

/** Returns the paths that the metadata of an event names. They come from outside, so they are checked. */
function checkedPaths({ metadata, type }: Plain): string[] {
    const paths = metadata.encrypted_fields;
    if (Array.isArray(paths) && paths.length <= 1000 && paths.every((path) => typeof path === 'string')) return paths;
    throw new EncryptionError(`the metadata of an event of type "${type}" names no encrypted fields`, '22023');
}

interface KeyRow {
    /** Null: the key is revoked. */
    wrappedKey: Uint8Array | null;
    masterKey: string;
}

const KEYS = `select row_to_json(s)::text as r
from (select r.key_id, r.wrapped_key, r.master_key from unnest($1::text::text[]) k(id), lateral outbox.get_subject_key(k.id) r) s`;

/** Returns the rows of keys. If one of them is not known, the server aborts the transaction of the caller. */
async function keysOf(client: Executor, ids: readonly string[]): Promise<Map<string, KeyRow>> {
    if (ids.length === 0) return new Map();
    try {
        const rows = await run(client, { text: KEYS, values: [argument(ids, 'text[]', 'the ids of keys').value] });
        return new Map(
            rows.map(({ r }): [string, KeyRow] => {
                const { key_id: id, wrapped_key: wrapped, master_key: masterKey } = JSON.parse(r!);
                return [id, { wrappedKey: wrapped === null ? null : Buffer.from(wrapped.slice(2), 'hex'), masterKey }];
            }),
        );
    } catch (error) {
        if (!(error instanceof OutboxError)) throw error;
        if (error.code === 'OB001') throw new KeyNotFoundError(error.message, 'OB001');
        if (error.kind === 'invalid') throw new EncryptionError('the metadata of an encrypted event names no key', '22023');
        throw error;
    }
}
