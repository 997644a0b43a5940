/**
 * The forms in which the data of events is stored. The content type of an event says which one it has, so a store reads events of all
 * serializers that it knows. The packages of MessagePack and Protobuf are optional, and are loaded when they are used.
 *
 * A schema in the registry checks data as JSON, so data with bytes or bigints needs a registry without a schema for it.
 */

import { invalid } from '../client/errors.js';
import { SchemaError } from './errors.js';

/** Writes and reads the data of events. */
export interface Serializer {
    readonly contentType: string;
    encode(data: unknown, type: string): Uint8Array;
    decode(body: Uint8Array, type: string): unknown;
}

/** The content type of JSON, which is the default and is stored as jsonb. */
export const JSON_TYPE = 'application/json';

function missing(name: string, cause: unknown): Error {
    return invalid(`${name} could not be loaded`, { cause, hint: `npm install ${name}` });
}

/** Runs a conversion. An error is a SchemaError, and does not show the data. */
function converting<T>(what: string, type: string, body: () => T): T {
    try {
        return body();
    } catch (cause) {
        if (cause instanceof SchemaError) throw cause;
        // Messages of libraries quote the data, so only the class of the error is told.
        throw new SchemaError(`an event of type "${type}" ${what}`, '22023', { detail: cause instanceof Error ? cause.name : `a ${typeof cause} was thrown` });
    }
}

/** MessagePack (`application/vnd.msgpack`), with the package `@msgpack/msgpack`. Bytes stay bytes, and dates stay dates. */
export class MessagePack implements Serializer {
    readonly contentType = 'application/vnd.msgpack';
    readonly #codec: { encode(data: unknown): Uint8Array; decode(body: Uint8Array): unknown };

    constructor() {
        try {
            this.#codec = require('@msgpack/msgpack');
        } catch (cause) {
            throw missing('@msgpack/msgpack', cause);
        }
    }

    encode(data: unknown, type: string): Uint8Array {
        return converting('cannot be MessagePack', type, () => this.#codec.encode(data));
    }

    decode(body: Uint8Array, type: string): unknown {
        return converting('is not MessagePack', type, () => this.#codec.decode(body));
    }
}

/** A message type: a schema that `protoc-gen-es` has made, or an object with `encode` and `decode`, as ts-proto and protobufjs make them. */
export type ProtobufType = { readonly kind: 'message'; readonly typeName: string } | { encode(data: any): Uint8Array | { finish(): Uint8Array }; decode(body: Uint8Array): any };

/** Protobuf (`application/x-protobuf`). Schemas of `protoc-gen-es` need the package `@bufbuild/protobuf`. */
export class Protobuf implements Serializer {
    readonly contentType = 'application/x-protobuf';
    readonly #types: Map<string, { encode(data: any): Uint8Array; decode(body: Uint8Array): any }>;

    /** `types`: the message type of each event type. */
    constructor(types: Record<string, ProtobufType>) {
        this.#types = new Map(Object.entries(types).map(([name, type]) => [name, 'kind' in type ? ofSchema(type) : ofCodec(type)]));
    }

    #type(type: string): { encode(data: any): Uint8Array; decode(body: Uint8Array): any } {
        const known = this.#types.get(type);
        if (known !== undefined) return known;
        throw new SchemaError(`event type "${type}" has no message type`, '22023', { hint: `There are ${[...this.#types.keys()].join(', ') || 'none'}.` });
    }

    encode(data: unknown, type: string): Uint8Array {
        return converting('cannot be Protobuf', type, () => this.#type(type).encode(data));
    }

    decode(body: Uint8Array, type: string): unknown {
        return converting('is not Protobuf', type, () => this.#type(type).decode(body));
    }
}

function ofSchema(schema: unknown): { encode(data: any): Uint8Array; decode(body: Uint8Array): any } {
    let library: any;
    try {
        library = require('@bufbuild/protobuf');
    } catch (cause) {
        throw missing('@bufbuild/protobuf', cause);
    }
    return {
        encode: (data) => library.toBinary(schema, library.create(schema, data)),
        decode: (body) => library.fromBinary(schema, body),
    };
}

function ofCodec(codec: { encode(data: any): Uint8Array | { finish(): Uint8Array }; decode(body: Uint8Array): any }): {
    encode(data: any): Uint8Array;
    decode(body: Uint8Array): any;
} {
    return {
        encode: (data) => {
            const encoded = codec.encode(data);
            return 'finish' in encoded ? encoded.finish() : encoded;
        },
        decode: (body) => codec.decode(body),
    };
}
