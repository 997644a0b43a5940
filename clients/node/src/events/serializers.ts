/** The forms in which the data of events is stored. The content type of an event says which one it has. */

/** Writes and reads the data of events. */
export interface Serializer {
    readonly contentType: string;
    encode(data: unknown, type: string): Uint8Array;
    decode(body: Uint8Array, type: string): unknown;
}

/** The content type of JSON, which is the default and is stored as jsonb. */
export const JSON_TYPE = 'application/json';
