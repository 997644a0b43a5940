/** Providers of master keys that stay in a service: HashiCorp Vault (transit) and AWS KMS. Data keys are sent there to be wrapped. */

import { errorOf, invalid, said } from '../client/errors.js';
import { positive } from '../work/time.js';
import type { KeyProvider } from './encryption.js';
import { EncryptionError, KeyNotFoundError } from './errors.js';

/** Settings of {@link VaultTransit}. */
export interface VaultOptions {
    /** The address, for instance `https://vault:8200`. The default is VAULT_ADDR. */
    address?: string;
    /** The token, or a function that returns it. The default is VAULT_TOKEN. */
    token?: string | (() => string | Promise<string>);
    /** The name of the key in the transit engine. */
    masterKey: string;
    /** The path of the transit engine. The default is `transit`. */
    mount?: string;
    namespace?: string;
    /** Seconds that a request may take. The default is 10. */
    timeout?: number;
}

/** Keys of the transit engine of HashiCorp Vault. A wrapped key is the text that Vault returns (`vault:v1:...`). */
export class VaultTransit implements KeyProvider {
    readonly masterKey: string;
    readonly #options: VaultOptions;
    readonly #address: string;

    constructor(options: VaultOptions) {
        const address = options.address ?? process.env.VAULT_ADDR;
        if (!address) throw invalid('Vault needs an address', { hint: 'Give an address, or set VAULT_ADDR.' });
        positive(options.timeout, 10, 'timeout');
        this.masterKey = options.masterKey;
        this.#options = options;
        this.#address = address.replace(/\/+$/, '');
    }

    async wrap(dataKey: Uint8Array, masterKey: string): Promise<Uint8Array> {
        const { ciphertext } = await this.#call('encrypt', masterKey, { plaintext: Buffer.from(dataKey).toString('base64') });
        if (typeof ciphertext !== 'string') throw new EncryptionError('Vault has returned no ciphertext', '08P01');
        return Buffer.from(ciphertext);
    }

    async unwrap(wrapped: Uint8Array, masterKey: string): Promise<Uint8Array> {
        const { plaintext } = await this.#call('decrypt', masterKey, { ciphertext: Buffer.from(wrapped).toString('utf8') });
        if (typeof plaintext !== 'string') throw new EncryptionError('Vault has returned no plaintext', '08P01');
        return Buffer.from(plaintext, 'base64');
    }

    async #call(verb: string, key: string, body: object): Promise<Record<string, unknown>> {
        checkName(key, /^(?!.*\.\.)[A-Za-z0-9_-][A-Za-z0-9_./-]{0,254}$/);
        const { token: given, mount = 'transit', namespace, timeout = 10 } = this.#options;
        const token = typeof given === 'function' ? await given() : (given ?? process.env.VAULT_TOKEN);
        if (!token) throw invalid('Vault needs a token', { hint: 'Give a token, or set VAULT_TOKEN.' });
        const path = [...mount.split('/'), verb, key].map(encodeURIComponent).join('/');
        let response: Response;
        let text: string;
        try {
            response = await fetch(`${this.#address}/v1/${path}`, {
                method: 'POST',
                headers: { 'x-vault-token': token, 'content-type': 'application/json', ...(namespace === undefined ? {} : { 'x-vault-namespace': namespace }) },
                body: JSON.stringify(body),
                // The token is for the address that was asked for.
                redirect: 'manual',
                signal: AbortSignal.timeout(timeout * 1000),
            });
            text = await bounded(response);
        } catch (cause) {
            throw errorOf('Vault does not answer', '08006', { cause, detail: said(cause) });
        }
        if (!response.ok) throw refusal('Vault', key, response.status, errorsOf(text));
        try {
            return JSON.parse(text).data ?? {};
        } catch {
            throw new EncryptionError('Vault has not answered with JSON', '08P01');
        }
    }
}

/** The largest answer of Vault, in bytes. One with a wrapped key has some hundreds. */
const LARGEST = 64 * 1024;

/** Returns the body of an answer, or throws when it becomes too large. */
async function bounded(response: Response): Promise<string> {
    const chunks: Uint8Array[] = [];
    let size = 0;
    for await (const chunk of response.body ?? []) {
        size += chunk.length;
        if (size > LARGEST) throw new Error(`the answer is larger than ${LARGEST} bytes`);
        chunks.push(chunk);
    }
    return Buffer.concat(chunks).toString('utf8');
}

/** Throws for the name of a master key that cannot be one. It may come from the metadata of an event, which anybody may have written. */
function checkName(key: unknown, form: RegExp): void {
    if (typeof key === 'string' && form.test(key)) return;
    throw new KeyNotFoundError('malformed name of a master key', '42704');
}

/** Returns the errors that Vault tells, which have no key in them. */
function errorsOf(text: string): string {
    try {
        return [...JSON.parse(text).errors].join('; ').slice(0, 300);
    } catch {
        return '';
    }
}

function refusal(service: string, key: string, status: number, detail: string): Error {
    const name = key.slice(0, 64);
    const told = `${service} has answered ${status}. ${detail}`.trim();
    if (status >= 300 && status < 400) return new EncryptionError(`${service} sends requests to another address`, '28000', { detail: told, hint: 'Give the address of the active server.' });
    if (status >= 500 || status === 429) return errorOf(`${service} cannot answer now`, '08006', { detail: told });
    if (status === 404 || /not found/i.test(detail)) return new KeyNotFoundError(`there is no master key "${name}"`, '42704', { detail: told });
    if (status === 401 || status === 403) return new EncryptionError(`${service} refuses the use of master key "${name}"`, '28000', { detail: told });
    return new EncryptionError('the wrapped key cannot be decrypted', '22023', { detail: told });
}

/** The part of the client `KMS` of `@aws-sdk/client-kms` that is used here. */
export interface KmsLike {
    encrypt(input: { KeyId: string; Plaintext: Uint8Array; EncryptionContext: Record<string, string> }): Promise<{ CiphertextBlob?: Uint8Array }>;
    decrypt(input: { KeyId: string; CiphertextBlob: Uint8Array; EncryptionContext: Record<string, string> }): Promise<{ Plaintext?: Uint8Array }>;
}

/** KMS binds each data key to this context. It is the same in every client. */
const CONTEXT = { pg_outbox: 'key.v1' };

/** Keys of AWS KMS. The name of a master key is its id, its ARN or its alias. */
export class AwsKms implements KeyProvider {
    readonly masterKey: string;
    #client: KmsLike | undefined;

    /** `client`: a `KMS` of `@aws-sdk/client-kms`. Without it, one with the settings of the environment is made. */
    constructor({ masterKey, client }: { masterKey: string; client?: KmsLike }) {
        this.masterKey = masterKey;
        this.#client = client;
    }

    #kms(masterKey: string): KmsLike {
        checkName(masterKey, /^[A-Za-z0-9:/_-]{1,2048}$/);
        try {
            return (this.#client ??= new (require('@aws-sdk/client-kms').KMS)() as KmsLike);
        } catch (cause) {
            throw invalid('@aws-sdk/client-kms could not be loaded', { cause, hint: 'npm install @aws-sdk/client-kms' });
        }
    }

    async wrap(dataKey: Uint8Array, masterKey: string): Promise<Uint8Array> {
        const { CiphertextBlob } = await asked(masterKey, this.#kms(masterKey).encrypt({ KeyId: masterKey, Plaintext: dataKey, EncryptionContext: CONTEXT }));
        if (!CiphertextBlob) throw new EncryptionError('KMS has returned no ciphertext', '08P01');
        return CiphertextBlob;
    }

    async unwrap(wrapped: Uint8Array, masterKey: string): Promise<Uint8Array> {
        const { Plaintext } = await asked(masterKey, this.#kms(masterKey).decrypt({ KeyId: masterKey, CiphertextBlob: wrapped, EncryptionContext: CONTEXT }));
        if (!Plaintext) throw new EncryptionError('KMS has returned no plaintext', '08P01');
        return Plaintext;
    }
}

async function asked<T>(key: string, answer: Promise<T>): Promise<T> {
    try {
        return await answer;
    } catch (error) {
        const { name = '', $metadata } = (error ?? {}) as { name?: string; $metadata?: { httpStatusCode?: number } };
        if (name === 'NotFoundException') throw refusal('KMS', key, 404, name);
        if (/^(AccessDenied|Unrecognized|ExpiredToken|InvalidSignature)/.test(name)) throw refusal('KMS', key, 403, name);
        if (/^(InvalidCiphertext|IncorrectKey|DisabledException|KMSInvalidState)/.test(name)) throw refusal('KMS', key, 400, name);
        throw refusal('KMS', key, $metadata?.httpStatusCode && !/Throttl|Limit/.test(name) ? $metadata.httpStatusCode : 503, name);
    }
}
