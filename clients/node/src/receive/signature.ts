/**
 * Signatures of Standard Webhooks (https://www.standardwebhooks.com) over `id.timestamp.body`: `v1` is HMAC-SHA256, `v1a` is
 * ed25519. crates/core/src/sign.rs and verify.rs are the same for the sender and the other clients; the vectors in
 * tests/conformance/signatures.json hold for all.
 *
 * Requests are untrusted, so the cheap checks come first: headers, time and number of signatures before the body.
 */

import type { KeyObject } from 'node:crypto';

import { invalid, InvalidError, SignatureError } from '../client/errors.js';

// Loaded at the first use: a program that only enqueues starts in half the time without them.
const crypto = () => require('node:crypto') as typeof import('node:crypto');
const zlib = () => require('node:zlib') as typeof import('node:zlib');

/** The largest number of signatures in one header. A sender signs with its secret and with those that it rotates out. */
const MAX_SIGNATURES = 16;
/** The bytes before the 32 bytes of an ed25519 seed in PKCS #8. */
const ED25519 = Buffer.from('302e020100300506032b657004220420', 'hex');

/** A secret that is ready to sign. */
type Secret = { symmetric: Buffer } | { privateKey: KeyObject; publicKey: KeyObject };

/** Returns the bytes of canonical base64, or undefined. */
function decoded(text: string): Buffer | undefined {
    const bytes = Buffer.from(text, 'base64');
    return bytes.toString('base64') === text ? bytes : undefined;
}

/** Reads `whsec_` and the base64 of 24 to 64 bytes, or `whsk_` and the base64 of an ed25519 key. Errors do not show the secret. */
export function parseSecret(text: string): Secret {
    const refuse = (detail: string) =>
        invalid('invalid signing secret', {
            detail,
            hint: 'A secret is "whsec_" followed by the base64 of 24 to 64 random bytes; leave it out to have one made.',
        });
    const prefix = ['whsec_', 'whsk_'].find((one) => text.startsWith(one));
    if (prefix === undefined) throw refuse('It does not start with "whsec_".');
    const key = decoded(text.slice(prefix.length));
    if (key === undefined) throw refuse(`What follows "${prefix}" is not base64.`);
    if (prefix === 'whsec_') {
        if (key.length < 24 || key.length > 64) throw refuse(`It has ${key.length} bytes.`);
        return { symmetric: key };
    }
    if (key.length !== 32 && key.length !== 64) throw refuse(`It has ${key.length} bytes; an ed25519 key has 32 or 64.`);
    const privateKey = crypto().createPrivateKey({ key: Buffer.concat([ED25519, key.subarray(0, 32)]), format: 'der', type: 'pkcs8' });
    const publicKey = crypto().createPublicKey(privateKey);
    const half = publicKey.export({ format: 'der', type: 'spki' }).subarray(-32);
    if (key.length === 64 && !half.equals(key.subarray(32))) throw refuse('Its public half does not belong to its private half.');
    return { privateKey, publicKey };
}

const head = (id: string, timestamp: string): Buffer => Buffer.from(`${id}.${timestamp}.`);
const mac = (key: Buffer, id: string, timestamp: string, body: Buffer): Buffer =>
    crypto().createHmac('sha256', key).update(head(id, timestamp)).update(body).digest();

/** Returns the signature of a body, `v1,<base64>` or `v1a,<base64>`. */
export function signature(secret: Secret, id: string, timestamp: string, body: Buffer): string {
    if ('symmetric' in secret) return `v1,${mac(secret.symmetric, id, timestamp, body).toString('base64')}`;
    return `v1a,${crypto().sign(null, Buffer.concat([head(id, timestamp), body]), secret.privateKey).toString('base64')}`;
}

/** Returns whether one of the signatures was made with this secret. Each comparison takes constant time; the body is hashed once. */
function fits(secret: Secret, id: string, timestamp: string, body: Buffer, signatures: string[]): boolean {
    const version = 'symmetric' in secret ? 'v1,' : 'v1a,';
    const claimed = signatures.filter((one) => one.startsWith(version)).map((one) => decoded(one.slice(version.length)));
    if (claimed.length === 0) return false;
    if ('symmetric' in secret) {
        const ours = mac(secret.symmetric, id, timestamp, body);
        return claimed.some((one) => one?.length === ours.length && crypto().timingSafeEqual(one, ours));
    }
    const signed = Buffer.concat([head(id, timestamp), body]);
    return claimed.some((one) => one?.length === 64 && crypto().verify(null, signed, secret.publicKey, one));
}

const refused = (detail: string) => new SignatureError('the signature is not valid', '22023', { detail, codeName: 'invalid_signature' });

/** Returns the content of a gzip member. The work is linear in the sizes before and after, which `limit` bounds. */
function gunzip(body: Buffer, limit: number): Buffer {
    const tooLarge = () =>
        new InvalidError('the request is too large', '54000', { detail: `The limit is ${limit} bytes, before and after decompression.` });
    const malformed = () => refused('No signature fits the body as it arrived, and it is not one gzip member that could be decompressed.');
    if (body.length > limit) throw tooLarge();
    let content: Buffer;
    try {
        content = zlib().gunzipSync(body, { maxOutputLength: Math.max(limit, 1) });
    } catch (error) {
        throw (error as { code?: unknown }).code === 'ERR_BUFFER_TOO_LARGE' ? tooLarge() : malformed();
    }
    if (content.length > limit) throw tooLarge();
    // The last four bytes are the size of the last member, so that a second member shows.
    if (body.readUInt32LE(body.length - 4) !== content.length) throw malformed();
    return content;
}

/** The parts of a request that are needed for the verification. */
export interface SignedRequest {
    id: string | undefined;
    timestamp: string | undefined;
    signature: string | undefined;
    encoding: string | undefined;
    /** The body as it arrived. A framework may have decompressed it. */
    body: Buffer;
}

/**
 * Checks a request and returns the time of the signature, in seconds since 1970, and the signed content. The signature covers
 * the content before compression, so the body as it arrived is checked first, and then, if the request says that the body is
 * compressed, its content.
 */
export function verifyRequest(
    secrets: readonly Secret[],
    request: SignedRequest,
    tolerance: number,
    limit: number,
    now: number,
): { signedAt: number; content: Buffer } {
    const present = (value: string | undefined, name: string): string => {
        if (value === undefined) throw refused(`The header "${name}" is missing.`);
        return value;
    };
    const id = present(request.id, 'webhook-id');
    const timestamp = present(request.timestamp, 'webhook-timestamp');
    const header = present(request.signature, 'webhook-signature');
    const signedAt = /^[+-]?\d{1,15}$/.test(timestamp) ? Number(timestamp) : Number.NaN;
    if (Number.isNaN(signedAt)) throw refused('The header "webhook-timestamp" is not a number of seconds.');
    const off = Math.abs(now - signedAt);
    if (off > tolerance) throw refused(`It was signed ${off} seconds away from now.`);
    const signatures = header.split(' ', MAX_SIGNATURES + 1);
    if (signatures.length > MAX_SIGNATURES) {
        throw refused(`The header "webhook-signature" has more than ${MAX_SIGNATURES} signatures.`);
    }
    const signed = (content: Buffer) => secrets.some((secret) => fits(secret, id, String(signedAt), content, signatures));
    if (signed(request.body)) return { signedAt, content: request.body };
    const named = /^\s*(x-)?gzip\s*$/i.test(request.encoding ?? '');
    if (named && request.body.length > 2 && request.body.readUInt16BE(0) === 0x1f8b) {
        const content = gunzip(request.body, limit);
        if (signed(content)) return { signedAt, content };
    }
    throw refused('No signature fits: another secret, or the body was changed on its way.');
}
