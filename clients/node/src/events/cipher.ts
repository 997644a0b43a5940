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
const ALGORITHM = 'aes-256-gcm';
const TAG = { authTagLength: TAG_LENGTH };
const FIELD = 'pg_outbox.field.v1';
const KEY = 'pg_outbox.key.v1';

/** The place of an event, which its encrypted fields are bound to. */
export interface Place {
    stream: string;
    type: string;
}

/** Returns the nonce of the next encryption. */
export type Nonces = () => Uint8Array;

/** Random bytes that come from one call for many, which is some times as fast as a call for each. */
class Random {
    #drawn = Buffer.alloc(0);
    #used = 0;

    /** Returns the next bytes, which are in memory together with those of other calls. */
    next(length: number): Buffer {
        if (this.#used + length > this.#drawn.length) {
            this.#drawn = randomBytes(length * 256);
            this.#used = 0;
        }
        this.#used += length;
        return this.#drawn.subarray(this.#used - length, this.#used);
    }
}

const nonceBytes = new Random();
const keyBytes = new Random();
const random: Nonces = () => nonceBytes.next(NONCE_LENGTH);

/** Returns a new data key, in memory of its own. */
export function newKey(): Uint8Array {
    const drawn = keyBytes.next(KEY_LENGTH);
    const key = new Uint8Array(drawn);
    drawn.fill(0);
    return key;
}

/** Throws if a key has not 32 bytes. */
export function checkKey(key: Uint8Array): void {
    if (key instanceof Uint8Array && key.length === KEY_LENGTH) return;
    throw new EncryptionError('malformed encryption key', '22023', {
        detail: key instanceof Uint8Array ? `It has ${key.length} bytes.` : 'It is not bytes.',
        hint: 'A key has 32 random bytes.',
    });
}

function seal(key: Uint8Array, plain: Uint8Array, bound: string, nonce: Uint8Array): Buffer {
    checkKey(key);
    const cipher = createCipheriv(ALGORITHM, key, nonce, TAG);
    cipher.setAAD(Buffer.from(bound));
    const encrypted = cipher.update(plain);
    // It has no bytes in this mode, but the tag is made here.
    cipher.final();
    return Buffer.concat([nonce, encrypted, cipher.getAuthTag()], NONCE_LENGTH + encrypted.length + TAG_LENGTH);
}

function open(key: Uint8Array, sealed: Buffer, bound: string): Buffer | undefined {
    checkKey(key);
    if (sealed.length < NONCE_LENGTH + TAG_LENGTH) return undefined;
    const decipher = createDecipheriv(ALGORITHM, key, sealed.subarray(0, NONCE_LENGTH), TAG);
    decipher.setAAD(Buffer.from(bound));
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
    return seal(master, dataKey, `${KEY}\0${masterKey}`, nonces());
}

/** Decrypts a data key that {@link wrapKey} has encrypted. */
export function unwrapKey(master: Uint8Array, masterKey: string, wrapped: Uint8Array): Buffer {
    const key = open(master, Buffer.from(wrapped), `${KEY}\0${masterKey}`);
    if (key?.length === KEY_LENGTH) return key;
    throw new EncryptionError('the wrapped key cannot be decrypted', '22023', {
        hint: 'It was encrypted with another master key, under another name, or it is damaged.',
    });
}

const shown = (path: string): string => JSON.stringify([...path].slice(0, 64).join('')).slice(1, -1);

/** Throws for an empty name, more than 16 names, or a path that is, or leads into, another one. */
function checkPaths(paths: readonly string[]): void {
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

/** A path that was checked, with its names. */
export interface Path {
    readonly path: string;
    readonly names: readonly string[];
}

/** Checks paths, and splits them into names. */
export function parsePaths(paths: readonly string[]): Path[] {
    checkPaths(paths);
    return paths.map((path) => ({ path, names: path.split('.') }));
}

/** A field: the object that has it, and its name there. */
interface Field {
    of: Record<string, unknown>;
    name: string;
}

function has(value: unknown, key: string): value is Record<string, unknown> {
    return typeof value === 'object' && value !== null && !Array.isArray(value) && Object.hasOwn(value, key);
}

/** Returns the field that a path leads to. Undefined: the data has no such field. */
function find(data: unknown, { names }: Path): Field | undefined {
    const last = names.length - 1;
    let of = data;
    for (let i = 0; i < last; i += 1) {
        if (!has(of, names[i]!)) return undefined;
        of = of[names[i]!];
    }
    return has(of, names[last]!) ? { of, name: names[last]! } : undefined;
}

/** Returns whether one of the paths leads to a field of the data. */
export const hasField = (data: unknown, paths: readonly Path[]): boolean => paths.some((path) => find(data, path) !== undefined);

/** Returns the JSON of a field. A value that would come back as another one, like bytes, a date or undefined, is refused. */
function plaintext(value: unknown, path: string): Buffer {
    try {
        const text = JSON.stringify(value);
        // A text comes back as it was, so it need not be compared.
        if (typeof value === 'string' || isDeepStrictEqual(JSON.parse(text), value)) return Buffer.from(text);
    } catch {
        // It is refused below, without the error, which may quote the value.
    }
    throw new EncryptionError('a field cannot be encrypted', '22023', {
        detail: `Field: ${shown(path)}.`,
        hint: 'An encrypted field is JSON: write a date as text, and bytes as base64.',
    });
}

/** Returns base64 without padding. */
function base64(bytes: Buffer): string {
    const padded = bytes.toString('base64');
    return padded.slice(0, padded.length - ((3 - (bytes.length % 3)) % 3));
}

/** Returns what the fields of an event are bound to, but for their paths. */
const boundTo = ({ stream, type }: Place): string => `${FIELD}\0${stream}\0${type}\0`;

/** Encrypts those of the fields that are there, in place, and returns their paths. A field that is refused leaves all as they are. */
export function encryptFields(key: Uint8Array, data: unknown, place: Place, paths: readonly Path[], nonces: Nonces = random): string[] {
    const fields: (Field & { path: string; plain: Buffer })[] = [];
    for (const path of paths) {
        const field = find(data, path);
        if (field !== undefined) fields.push({ of: field.of, name: field.name, path: path.path, plain: plaintext(field.of[field.name], path.path) });
    }
    const bound = boundTo(place);
    return fields.map(({ of, name, path, plain }) => {
        of[name] = PREFIX + base64(seal(key, plain, bound + path, nonces()));
        return path;
    });
}

function decrypted(key: Uint8Array, value: unknown, bound: string): { value: unknown } | undefined {
    if (typeof value !== 'string' || !value.startsWith(PREFIX)) return undefined;
    const encoded = value.slice(PREFIX.length);
    const sealed = Buffer.from(encoded, 'base64');
    // Node passes over characters that are not of base64.
    if (base64(sealed) !== encoded) return undefined;
    const plain = open(key, sealed, bound);
    if (plain === undefined) return undefined;
    try {
        return { value: JSON.parse(plain.toString('utf8')) };
    } catch {
        return undefined;
    }
}

/** Decrypts the fields in place: all, or none if one cannot be decrypted. A field that is no longer there is passed over. */
export function decryptFields(key: Uint8Array, data: unknown, place: Place, paths: readonly Path[]): void {
    const bound = boundTo(place);
    const opened: (() => void)[] = [];
    for (const path of paths) {
        const field = find(data, path);
        if (field === undefined) continue;
        const plain = decrypted(key, field.of[field.name], bound + path.path);
        if (plain === undefined) {
            throw new EncryptionError('a field cannot be decrypted', '22023', {
                detail: `Field: ${shown(path.path)}.`,
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
        const field = find(data, { path, names: path.split('.') });
        if (field !== undefined) field.of[field.name] = null;
    }
}
