/**
 * Topics and patterns, by the rules of the server (crates/core/src/topic.rs, pattern.rs): checks without a connection. A test
 * compares every answer with that of a server.
 */

import { invalid } from '../client/errors.js';

const MAX_LENGTH = 255;
const WORD = /^[A-Za-z0-9_:/-]+$/;
const TOPIC = /^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$/;

const isReserved = (topic: string) => topic === 'outbox' || topic.startsWith('outbox.');
const begin = (text: string) => [...text].slice(0, 64).join('');

/** Throws if a topic cannot be published to. This is the check of `enqueue`, without a connection. */
export function checkTopic(topic: string): void {
    const size = Buffer.byteLength(topic);
    if (size <= MAX_LENGTH && TOPIC.test(topic)) {
        if (!isReserved(topic)) return;
        throw invalid(`topic "${topic}" is reserved`, {
            detail: 'Topics below "outbox" carry pg_outbox\'s own control messages and announcements.',
            hint: 'Choose another first word.',
        });
    }
    const strange = [...topic].find((c) => c !== '.' && !WORD.test(c));
    let detail = 'There is an empty word.';
    if (topic === '') detail = 'The topic is empty.';
    else if (size > MAX_LENGTH) detail = `The topic has ${size} bytes; the limit is ${MAX_LENGTH}.`;
    else if (strange !== undefined) detail = `The character '${strange}' is not allowed.`;
    throw invalid(`malformed topic "${begin(topic)}"`, {
        detail,
        hint: 'A topic is words of letters, digits, "_", "-", ":" and "/", separated by dots: "order.payment.completed".',
    });
}

/** Returns the words of a pattern. Throws if the pattern is malformed. */
function words(pattern: string): string[] {
    const refuse = (detail: string) =>
        invalid(`malformed topic pattern "${begin(pattern)}"`, {
            detail,
            hint: 'A pattern is a topic in which "*" stands for one word and "#" for any number of words: "order.*", "order.#", "#".',
        });
    if (pattern === '') throw refuse('The pattern is empty.');
    const size = Buffer.byteLength(pattern);
    if (size > MAX_LENGTH) throw refuse(`The pattern has ${size} bytes; the limit is ${MAX_LENGTH}.`);
    const list = pattern.split('.');
    for (const word of list) {
        if (word === '') throw refuse('There is an empty word.');
        if (word === '*' || word === '#' || WORD.test(word)) continue;
        if (/[*#]/.test(word)) throw refuse(`A wildcard stands for whole words, not for a part of "${word}".`);
        throw refuse(`The word "${word}" has a character that topics do not have.`);
    }
    return list;
}

/** Throws if a topic pattern is malformed. */
export function checkPattern(pattern: string): void {
    words(pattern);
}

/**
 * Returns whether a topic matches a pattern (`*` matches one word, `#` any number of words), by the rules of subscriptions.
 * The number of steps is at most the words of the pattern times those of the topic: matching only goes back to the last `#`.
 */
export function topicMatches(pattern: string, topic: string): boolean {
    const pieces = words(pattern);
    if (isReserved(topic) && (pieces[0] === '*' || pieces[0] === '#')) return false;
    const found = topic.split('.');
    let p = 0;
    let t = 0;
    let retry: { behind: number; from: number } | undefined;
    while (t < found.length) {
        if (pieces[p] === '#') {
            p += 1;
            retry = { behind: p, from: t };
        } else if (pieces[p] === '*' || pieces[p] === found[t]) {
            p += 1;
            t += 1;
        } else if (retry !== undefined) {
            p = retry.behind;
            t = retry.from + 1;
            retry.from = t;
        } else {
            return false;
        }
    }
    return pieces.slice(p).every((piece) => piece === '#');
}
