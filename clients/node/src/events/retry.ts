/** Repeats work that has met a conflict. */

import { OutboxError } from '../client/errors.js';
import { positive, sleep } from '../work/time.js';

/** How often and after which waits work is tried again. Times are seconds. */
export interface RetryPolicy {
    /** The largest number of tries. The default is 3. */
    attempts?: number;
    /** The wait before the second try. The default is 0.1. */
    wait?: number;
    /** The factor from one wait to the next. The default is 2. */
    factor?: number;
    /** The longest wait. The default is 5. */
    longest?: number;
    /** Whether an error is worth another try. The default is {@link isConflict}. */
    on?: (error: unknown) => boolean;
}

/** Whether another transaction was first (OB013, 40001, 40P01), so that the same work may succeed with what is there now. */
export function isConflict(error: unknown): boolean {
    return error instanceof OutboxError && ['OB013', '40001', '40P01'].includes(error.code);
}

/** Runs `body` until it succeeds, the tries are used up, or the signal aborts. No try begins after that. Half of each wait is random. */
export async function retrying<T>(policy: RetryPolicy, body: (attempt: number) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const attempts = positive(policy.attempts, 3, 'attempts', true);
    const factor = positive(policy.factor, 2, 'factor');
    const longest = positive(policy.longest, 5, 'longest');
    let wait = Math.min(positive(policy.wait, 0.1, 'wait'), longest);
    for (let attempt = 1; ; attempt += 1) {
        signal?.throwIfAborted();
        try {
            return await body(attempt);
        } catch (error) {
            if (attempt >= attempts || signal?.aborted || !(policy.on ?? isConflict)(error)) throw error;
        }
        await sleep(wait * (0.5 + Math.random() / 2), signal);
        wait = Math.min(wait * factor, longest);
    }
}
