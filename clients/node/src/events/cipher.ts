/**
 * AES-256-GCM for fields of events and for data keys, in the format of crates/core/src/encrypt.rs:
 *
 * An encrypted field is the text `v1.` and the base64 of nonce (12 bytes), ciphertext and tag (16 bytes). The plaintext is the JSON
 * of the value. The associated data are `pg_outbox.field.v1`, stream, event type and path, with U+0000 between them. A wrapped data
 * key is nonce, ciphertext and tag. Its associated data are `pg_outbox.key.v1`, U+0000 and the name of the master key.
 *
 * A nonce is random and is used once: a key of a subject may encrypt 2^32 fields (SP 800-38D, 8.3).
 */

import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';

import { EncryptionError } from './errors.js';

/** The length of a data key and of a master key, in bytes. */
export const KEY_LENGTH = 32;
const NONCE_LENGTH = 12;
const TAG_LENGTH = 16;
const MAX_DEPTH = 16;
const PREFIX = 'v1.';
const FIELD = 'pg_outbox.field.v1';
const KEY = 'pg_outbox.key.v1';

/** The place of an event, which its encrypted fields are bound to. */
export interface Place {
    stream: string;
    type: string;
}

/** Returns the nonce of the next encryption. */
export type Nonces = () => Uint8Array;

/** Random bytes for the next nonces. One call for many is four times as fast. */
let drawn = Buffer.alloc(0);
let used = 0;

const random: Nonces = () => {
    if (used === drawn.length) {
        drawn = randomBytes(NONCE_LENGTH * 256);
        used = 0;
    }
    used += NONCE_LENGTH;
    return drawn.subarray(used - NONCE_LENGTH, used);
};

/** Throws if a key has not 32 bytes. */
export function checkKey(key: Uint8Array): void {
    if (key instanceof Uint8Array && key.length === KEY_LENGTH) return;
    throw new EncryptionError('malformed encryption key', '22023', {
        detail: key instanceof Uint8Array ? `It has ${key.length} bytes.` : 'It is not bytes.',
        hint: 'A key has 32 random bytes.',
    });
}

function seal(key: Uint8Array, plain: Uint8Array, boundTo: string[], nonce: Uint8Array): Buffer {
    checkKey(key);
    const cipher = createCipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_LENGTH });
    cipher.setAAD(Buffer.from(boundTo.join('\0')));
    return Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

function open(key: Uint8Array, sealed: Buffer, boundTo: string[]): Buffer | undefined {
    checkKey(key);
    if (sealed.length < NONCE_LENGTH + TAG_LENGTH) return undefined;
    const decipher = createDecipheriv('aes-256-gcm', key, sealed.subarray(0, NONCE_LENGTH), { authTagLength: TAG_LENGTH });
    decipher.setAAD(Buffer.from(boundTo.join('\0')));
    decipher.setAuthTag(sealed.subarray(-TAG_LENGTH));
    try {
        return Buffer.concat([decipher.update(sealed.subarray(NONCE_LENGTH, -TAG_LENGTH)), decipher.final()]);
    } catch {
        return undefined;
    }
}

/** Encrypts a data key with a master key of this name. */
export function wrapKey(master: Uint8Array, masterKey: string, dataKey: Uint8Array, nonces: Nonces = random): Buffer {
    checkKey(dataKey);
    return seal(master, dataKey, [KEY, masterKey], nonces());
}

/** Decrypts a data key that {@link wrapKey} has encrypted. */
export function unwrapKey(master: Uint8Array, masterKey: string, wrapped: Uint8Array): Buffer {
    const key = open(master, Buffer.from(wrapped), [KEY, masterKey]);
    if (key?.length === KEY_LENGTH) return key;
    throw new EncryptionError('the wrapped key cannot be decrypted', '22023', {
        hint: 'It was encrypted with another master key, under another name, or it is damaged.',
    });
}

const shown = (path: string): string => JSON.stringify([...path].slice(0, 64).join('')).slice(1, -1);

/** Throws for an empty name, more than 16 names, or a path that is, or leads into, another one. */
export function checkPaths(paths: readonly string[]): void {
    paths.forEach((path, i) => {
        const names = path.split('.');
        const others = paths.slice(0, i);
        let wrong: string | undefined;
        if (names.some((name) => name === '')) wrong = 'A name in it is empty.';
        else if (names.length > MAX_DEPTH) wrong = 'It has more than 16 names.';
        else if (path.includes('\0')) wrong = 'It contains U+0000.';
        else if (others.some((other) => `${path}.`.startsWith(`${other}.`) || `${other}.`.startsWith(`${path}.`))) {
            wrong = 'Another path is the same, or one leads into the other.';
        }
        if (wrong === undefined) return;
        const hint = 'A path is names with dots between them: "address.street".';
        throw new EncryptionError(`malformed path "${shown(path)}"`, '22023', { detail: wrong, hint });
    });
}

/** Returns the object that has the last name of a path, and that name. Undefined: the data has no such field. */
function find(data: unknown, path: string): { of: Record<string, unknown>; name: string } | undefined {
    const names = path.split('.');
    const name = names.pop()!;
    const has = (value: unknown, key: string): value is Record<string, unknown> =>
        typeof value === 'object' && value !== null && !Array.isArray(value) && Object.hasOwn(value, key);
    let of = data;
    for (const step of names) {
        if (!has(of, step)) return undefined;
        of = of[step];
    }
    return has(of, name) ? { of, name } : undefined;
}

/** Returns those of the paths that lead to a field of the data. */
export const presentFields = (data: unknown, paths: readonly string[]): string[] => paths.filter((path) => find(data, path) !== undefined);

/** Returns the JSON of a field. A value that would come back as another one, like bytes, a date or undefined, is refused. */
function plaintext(value: unknown, path: string): Buffer {
    try {
        const text = JSON.stringify(value);
        if (isDeepStrictEqual(JSON.parse(text), value)) return Buffer.from(text);
    } catch {
        // It is refused below, without the error, which may quote the value.
    }
    throw new EncryptionError('a field cannot be encrypted', '22023', {
        detail: `Field: ${shown(path)}.`,
        hint: 'An encrypted field is JSON: write a date as text, and bytes as base64.',
    });
}

/** Encrypts those of the fields that are there, in place, and returns their paths. */
export function encryptFields(key: Uint8Array, data: unknown, { stream, type }: Place, paths: readonly string[], nonces: Nonces = random): string[] {
    checkPaths(paths);
    const present = presentFields(data, paths);
    const texts = present.map((path) => plaintext(find(data, path)!.of[find(data, path)!.name], path));
    for (const [i, path] of present.entries()) {
        const field = find(data, path)!;
        const sealed = seal(key, texts[i]!, [FIELD, stream, type, path], nonces());
        field.of[field.name] = PREFIX + sealed.toString('base64').replace(/=+$/, '');
    }
    return present;
}

function decrypted(key: Uint8Array, value: unknown, boundTo: string[]): { value: unknown } | undefined {
    if (typeof value !== 'string' || !value.startsWith(PREFIX)) return undefined;
    const base64 = value.slice(PREFIX.length);
    const sealed = Buffer.from(base64, 'base64');
    // Node passes over characters that are not of base64.
    if (sealed.toString('base64').replace(/=+$/, '') !== base64) return undefined;
    const plain = open(key, sealed, boundTo);
    if (plain === undefined) return undefined;
    try {
        return { value: JSON.parse(plain.toString('utf8')) };
    } catch {
        return undefined;
    }
}

/** Decrypts the fields in place: all, or none if one cannot be decrypted. A field that is no longer there is passed over. */
export function decryptFields(key: Uint8Array, data: unknown, { stream, type }: Place, paths: readonly string[]): void {
    checkPaths(paths);
    const opened: (() => void)[] = [];
    for (const path of paths) {
        const field = find(data, path);
        if (field === undefined) continue;
        const plain = decrypted(key, field.of[field.name], [FIELD, stream, type, path]);
        if (plain === undefined) {
            throw new EncryptionError('a field cannot be decrypted', '22023', {
                detail: `Field: ${shown(path)}.`,
                hint: 'It was encrypted with another key, for another stream or event type, or it is damaged.',
            });
        }
        opened.push(() => (field.of[field.name] = plain.value));
    }
    for (const assign of opened) assign();
}

/** Sets the fields to null, in place. */
export function emptyFields(data: unknown, paths: readonly string[]): void {
    for (const path of paths) {
        const field = find(data, path);
        if (field !== undefined) field.of[field.name] = null;
    }
}
