/**
 * Verifies webhooks, for plain `http`, Express, Fastify and all frameworks that provide the headers and the bytes of the
 * body.
 *
 * If the sender compresses the body (an endpoint with `compress => true`), the signature covers the content before
 * compression. It does not matter whether a framework has decompressed the body: the body of a verified request is the
 * signed content.
 */

import type { IncomingMessage, ServerResponse } from 'node:http';

import { InvalidError, invalid, SignatureError } from '../client/errors.js';
import { parseSecret, signature, verifyRequest } from './signature.js';

/** Headers as in node:http, as `Headers` of fetch, or as a plain object. */
export type HeadersLike = Headers | Record<string, string | string[] | undefined>;

/** A verified request. */
export interface Webhook {
    /** The webhook id. It is the same on every attempt, so receivers deduplicate by it. */
    id: string;
    signedAt: Date;
    /** The signed content, byte for byte: the body, decompressed if it arrived compressed. */
    body: Buffer;
    text(): string;
    json<T = any>(): T;
}

declare global {
    // eslint-disable-next-line @typescript-eslint/no-namespace -- This is how a middleware types what it adds to a request.
    namespace Express {
        interface Request {
            /** The verified request. {@link Verifier.middleware} sets it. */
            webhook?: Webhook;
        }
    }
}

/** A request whose signature was checked by {@link Verifier.middleware}. */
export interface WithWebhook {
    webhook?: Webhook;
}

function header(headers: HeadersLike, name: string): string | undefined {
    if (typeof (headers as Headers).get === 'function') return (headers as Headers).get(name) ?? undefined;
    const plain = headers as Record<string, string | string[] | undefined>;
    const value = plain[name] ?? plain[Object.keys(plain).find((key) => key.toLowerCase() === name) ?? name];
    return Array.isArray(value) ? value[0] : value;
}

function parsedSecrets(secrets: string | readonly string[]): ReturnType<typeof parseSecret>[] {
    const list: unknown[] = Array.isArray(secrets) ? secrets : [secrets];
    if (list.length === 0) throw invalid('no signing secret');
    return list.map((secret) => {
        if (typeof secret !== 'string') throw invalid('a signing secret is not text');
        return parseSecret(secret);
    });
}

/** Returns the answer to a refused request. Undefined if the error is not the sender's fault. */
function answerTo(error: unknown): { status: number; body: { error: string; detail?: string } } | undefined {
    const tooLarge = error instanceof InvalidError && error.code === '54000';
    if (!tooLarge && !(error instanceof SignatureError)) return undefined;
    const { message, detail } = error;
    return { status: tooLarge ? 413 : 401, body: { error: message, ...(detail === undefined ? {} : { detail }) } };
}

export interface VerifierOptions {
    /** The largest age of a signature in seconds, and how far it may be ahead of the local clock. The default is 300. */
    tolerance?: number;
    /** The largest size of a request in bytes, before and after decompression. The default is 1 MiB. */
    limit?: number;
}

/** Checks Standard Webhooks signatures with one secret, or with several while a secret is rotated. */
export class Verifier {
    readonly #secrets: ReturnType<typeof parsedSecrets>;
    readonly #tolerance: number;
    readonly #limit: number;

    constructor(secrets: string | readonly string[], options: VerifierOptions = {}) {
        this.#secrets = parsedSecrets(secrets);
        const tolerance = options.tolerance ?? 300;
        if (!Number.isInteger(tolerance) || tolerance < 0 || tolerance > 4_294_967_295) {
            throw invalid('the tolerance is not a whole number of seconds');
        }
        this.#tolerance = tolerance;
        this.#limit = options.limit ?? 1024 * 1024;
        if (!Number.isInteger(this.#limit) || this.#limit < 0 || this.#limit > 4_294_967_295) {
            throw invalid('the limit is not a whole number of bytes');
        }
    }

    /**
     * Checks a request. `body` is the body as it arrived, byte for byte, and not parsed JSON, which cannot be converted
     * back to the signed bytes. If `content-encoding` names gzip, the body is decompressed. Throws a SignatureError that
     * says why the request is refused, or an InvalidError with the code 54000 if a compressed body is larger than the
     * limit.
     */
    verify(headers: HeadersLike, body: Uint8Array | string, now: Date = new Date()): Webhook {
        if (typeof body !== 'string' && !(body instanceof Uint8Array)) {
            throw invalid('the body is not bytes or text', {
                hint: 'Verify what arrived, before it is parsed: express.raw(), or parseAs "buffer" of Fastify.',
            });
        }
        const arrived = Buffer.isBuffer(body) ? body : Buffer.from(body as string);
        const request = {
            id: header(headers, 'webhook-id'),
            timestamp: header(headers, 'webhook-timestamp'),
            signature: header(headers, 'webhook-signature'),
            encoding: header(headers, 'content-encoding'),
            body: arrived,
        };
        const { signedAt, content: bytes } = verifyRequest(this.#secrets, request, this.#tolerance, this.#limit, Math.floor(now.getTime() / 1000));
        return {
            id: request.id!,
            signedAt: new Date(signedAt * 1000),
            body: bytes,
            text: () => bytes.toString('utf8'),
            json: <T>() => {
                try {
                    return JSON.parse(bytes.toString('utf8')) as T;
                } catch (cause) {
                    throw invalid('the body is not JSON', { cause });
                }
            },
        };
    }

    /** Reads the body of a request of node:http and checks it. */
    async read(request: IncomingMessage): Promise<Webhook> {
        return this.verify(request.headers, await this.#collect(request));
    }

    /** Reads the body. A body that is too large is read to its end and dropped, so that the sender gets an answer. */
    #collect(request: IncomingMessage): Promise<Buffer> {
        return new Promise((resolve, reject) => {
            if (request.readableEnded) return resolve(Buffer.alloc(0));
            const chunks: Buffer[] = [];
            let size = 0;
            request.on('data', (chunk: Buffer) => {
                size += chunk.length;
                if (size <= this.#limit) return void chunks.push(chunk);
                chunks.length = 0;
                reject(new InvalidError('the request is too large', '54000', { detail: `The limit is ${this.#limit} bytes.` }));
            });
            request.once('end', () => resolve(Buffer.concat(chunks)));
            request.once('error', reject);
            request.once('close', () => reject(invalid('the request ended before its body did')));
        });
    }

    /**
     * Returns a middleware for Express (or any `(request, response, next)`). It answers 401 if the signature is not valid
     * and 413 if the request is too large, else it sets `request.webhook`. It reads the body itself, or uses the body
     * that `express.raw()` has read. It must come before `express.json()`.
     */
    middleware(): <Request extends IncomingMessage>(request: Request, response: ServerResponse, next: (error?: any) => void) => void {
        return (request, response, next) => {
            const { body } = request as { body?: unknown };
            // A parser that has read nothing leaves an empty object as the body.
            const read = body instanceof Uint8Array || typeof body === 'string' || (body !== undefined && request.readableDidRead);
            const checked = read
                ? Promise.resolve().then(() => this.verify(request.headers, body as Uint8Array))
                : this.read(request);
            checked.then(
                (webhook) => {
                    (request as WithWebhook).webhook = webhook;
                    next();
                },
                (error: unknown) => {
                    const answer = answerTo(error);
                    if (answer === undefined) return next(error);
                    response.statusCode = answer.status;
                    response.setHeader('content-type', 'application/json');
                    response.end(JSON.stringify(answer.body));
                },
            );
        };
    }

    /**
     * Returns a plugin for Fastify: `app.register(verifier.fastify())`. In the scope in which it is registered, bodies
     * are not parsed, requests without a valid signature are answered 401, requests that are too large 413, and handlers
     * find `request.webhook`.
     */
    fastify(): (app: any) => Promise<void> {
        const plugin = async (app: any) => {
            app.removeAllContentTypeParsers();
            app.addContentTypeParser('*', { parseAs: 'buffer', bodyLimit: this.#limit }, (_: unknown, body: Buffer, done: any) =>
                done(null, body),
            );
            app.decorateRequest('webhook', null);
            app.addHook('preHandler', async (request: any, reply: any) => {
                try {
                    request.webhook = this.verify(request.headers, request.body ?? Buffer.alloc(0));
                } catch (error) {
                    const answer = answerTo(error);
                    if (answer === undefined) throw error;
                    return reply.code(answer.status).send(answer.body);
                }
            });
        };
        // The plugin applies to the scope in which it is registered, not to a scope of its own.
        return Object.assign(plugin, { [Symbol.for('skip-override')]: true });
    }
}

/** Returns the `webhook-signature` of a body with one signature per secret, for tests of receivers. */
export function sign(secrets: string | readonly string[], id: string, signedAt: Date, body: Uint8Array | string): string {
    const timestamp = String(Math.floor(signedAt.getTime() / 1000));
    return parsedSecrets(secrets)
        .map((secret) => signature(secret, id, timestamp, Buffer.from(body as string)))
        .join(' ');
}
