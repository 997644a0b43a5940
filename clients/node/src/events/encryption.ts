/**
 * Encryption of fields of events. The fields that an application names are encrypted before they leave the process, with a data
 * key of the event or of its subject. A provider wraps the data keys with a master key that the database never sees.
 *
 * Metadata of an encrypted event: `encrypted_fields` (the paths), and `key_id` (key of a subject, which the server stores), or
 * `wrapped_key` (base64) and `master_key` (key of the event).
 *
 * The row of a subject's key is read with every page of events, so that a revoked key has an effect at once; only the unwrapping
 * is cached.
 */

import { randomBytes, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';

import type { Executor } from '../client/driver.js';
import { OutboxError } from '../client/errors.js';
import type { SubjectKeyRow } from '../client/functions.js';
import { Outbox } from '../client/outbox.js';
import { positive } from '../work/time.js';
import { checkKey, checkPaths, decryptFields, emptyFields, encryptFields, KEY_LENGTH, unwrapKey, wrapKey } from './cipher.js';
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

/** Gets an event that cannot be decrypted, and returns its data, or throws. `data` has the encrypted fields as they are stored. */
export type OnUndecryptable = (event: Plain, error: EncryptionError) => unknown;

/** Settings of {@link FieldEncryption}. */
export interface EncryptionOptions {
    provider: KeyProvider;
    /** The paths of the fields by event type: `{ 'customer.named': ['name', 'address.street'] }`. */
    fields: Record<string, readonly string[]>;
    /** One data key per event, which is stored in it, or one per subject, which can be revoked. The default is `subject`. */
    keyPer?: 'event' | 'subject';
    /** The subject of an event. The default is its stream. */
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
    readonly #fields: Map<string, readonly string[]>;
    readonly #cacheSize: number;
    /** Unwrapped keys, by the wrapped key. The one that was used last is at the end. */
    readonly #cache = new Map<string, Uint8Array>();

    constructor(options: EncryptionOptions) {
        this.#options = options;
        this.#fields = new Map(Object.entries(options.fields));
        for (const paths of this.#fields.values()) checkPaths(paths);
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

    /** Forgets all keys that are in memory. */
    forget(): void {
        this.#cache.clear();
    }

    /** Encrypts the fields of events in place, in the transaction that appends them. */
    async seal(tx: Executor, events: Plain[]): Promise<void> {
        const subjects = new Map<string, { id: string; key: Uint8Array }>();
        for (const event of events) {
            const paths = this.#fields.get(event.type);
            if (paths === undefined || paths.length === 0) continue;
            const found: Record<string, unknown> = {};
            let key: Uint8Array;
            if (this.#options.keyPer === 'event') {
                key = randomBytes(KEY_LENGTH);
                const master = this.#master(event.tenant);
                found.wrapped_key = Buffer.from(await this.#options.provider.wrap(key, master)).toString('base64');
                found.master_key = master;
            } else {
                const subject = this.#options.subject?.(event) ?? event.stream;
                let known = subjects.get(subject);
                if (known === undefined) subjects.set(subject, (known = await this.#keyOf(tx, subject, event.tenant)));
                key = known.key;
                found.key_id = known.id;
            }
            const encrypted = encryptFields(key, event.data, event, paths);
            if (encrypted.length > 0) Object.assign(event.metadata, { encrypted_fields: encrypted, ...found });
        }
    }

    /** Returns the newest key of a subject that is not revoked. If there is none, it makes one in this transaction. */
    async #keyOf(tx: Executor, subject: string, tenant: string | null): Promise<{ id: string; key: Uint8Array }> {
        const outbox = new Outbox(tx);
        const row = (await outbox.subjectKeys({ subject })).findLast((one) => one.wrappedKey !== null);
        if (row !== undefined) return { id: row.keyId, key: await this.#unwrapped(row.wrappedKey!, row.masterKey) };
        const id = `key_${randomUUID()}`;
        const key = randomBytes(KEY_LENGTH);
        const masterKey = this.#master(tenant);
        const wrappedKey = await this.#options.provider.wrap(key, masterKey);
        await outbox.saveSubjectKey({ subject, keyId: id, wrappedKey, masterKey });
        return { id, key };
    }

    /** Decrypts the fields of events in place, and returns those of them whose key is revoked or that a handler has replaced. */
    async open(client: Executor, events: Plain[]): Promise<Set<Plain>> {
        const rows = new Map<string, SubjectKeyRow | undefined>();
        const redacted = new Set<Plain>();
        for (const event of events) {
            if (!isEncrypted(event.metadata)) continue;
            const paths = checkedPaths(event);
            try {
                decryptFields(await this.#key(client, event.metadata, rows), event.data, event, paths);
            } catch (error) {
                if (!(error instanceof EncryptionError)) throw error;
                if (this.#options.onUndecryptable) event.data = await this.#options.onUndecryptable(event, error);
                else if (error instanceof KeyRevokedError) emptyFields(event.data, paths);
                else throw error;
                redacted.add(event);
            }
        }
        return redacted;
    }

    async #key(client: Executor, metadata: Record<string, unknown>, rows: Map<string, SubjectKeyRow | undefined>): Promise<Uint8Array> {
        const { key_id: id, wrapped_key: wrapped, master_key: master } = metadata;
        if (typeof wrapped === 'string' && typeof master === 'string') return this.#unwrapped(Buffer.from(wrapped, 'base64'), master);
        if (typeof id !== 'string') throw new EncryptionError('the metadata of an encrypted event names no key', '22023');
        if (!rows.has(id)) rows.set(id, await subjectKey(client, id));
        const row = rows.get(id);
        if (row === undefined) throw new KeyNotFoundError(`there is no key "${id.slice(0, 64)}"`, 'OB001');
        if (row.wrappedKey === null) throw new KeyRevokedError(`the key "${id.slice(0, 64)}" is revoked`, 'OB004');
        return this.#unwrapped(row.wrappedKey, row.masterKey);
    }
}

/** Returns the paths that the metadata of an event names. They come from outside, so they are checked. */
function checkedPaths({ metadata, type }: Plain): string[] {
    const paths = metadata.encrypted_fields;
    if (Array.isArray(paths) && paths.length <= 1000 && paths.every((path) => typeof path === 'string')) return paths;
    throw new EncryptionError(`the metadata of an event of type "${type}" names no encrypted fields`, '22023');
}

/** Returns the row of a key, or undefined if there is none. The server has then aborted the transaction of the caller. */
async function subjectKey(client: Executor, keyId: string): Promise<SubjectKeyRow | undefined> {
    try {
        return await new Outbox(client).getSubjectKey({ keyId });
    } catch (error) {
        if (error instanceof OutboxError && error.code === 'OB001') return undefined;
        throw error;
    }
}
