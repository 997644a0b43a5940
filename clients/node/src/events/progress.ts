/** Shows how far rebuilds are: bars on a terminal, and plain lines where there is none. */

import type { RebuildProgress } from './projections.js';

/** The part of a stream that is written to. */
export interface ProgressStream {
    write(text: string): unknown;
    readonly isTTY?: boolean;
    /** The width of the terminal. */
    readonly columns?: number;
}

const WIDTH = 20;
const number = (value: number): string => Math.floor(value + 0.5).toLocaleString('en-US');

function left(seconds: number | null, over: boolean): string {
    if (over) return 'done';
    if (seconds === null) return '';
    const whole = Math.ceil(seconds);
    if (whole < 60) return `${whole} s left`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s left`;
    return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min left`;
}

/** Returns a rebuild as a line, with a bar or without. `width` is that of the longest name. */
export function progressLine({ projection, done, total, rate, secondsLeft }: RebuildProgress, { bar = true, width = 0 } = {}): string {
    const share = total === 0 ? 1 : done / total;
    const filled = Math.floor(share * WIDTH);
    const parts = [
        // A control character in a name would change the terminal.
        projection.replace(/\p{Cc}/gu, '?').padEnd(width),
        ...(bar ? [`[${'#'.repeat(filled)}${'.'.repeat(WIDTH - filled)}]`] : []),
        `${String(Math.floor(share * 100)).padStart(3)} %`,
        `${number(done)} of ${number(total)}`,
        `${number(rate)}/s`,
        left(secondsLeft, done >= total),
    ];
    return parts.join('  ').trimEnd();
}

/**
 * Returns a function for `onProgress` of `rebuild` and `rebuildAll`. On a terminal each projection has a bar, which is drawn again
 * each second; elsewhere each report is a line.
 */
export function progressBar(stream: ProgressStream = process.stderr): (progress: RebuildProgress) => void {
    const shown = new Map<string, RebuildProgress>();
    let drawn = 0;
    return (progress) => {
        if (!stream.isTTY) {
            stream.write(`${progressLine(progress, { bar: false })}\n`);
            return;
        }
        shown.set(progress.projection, progress);
        const width = Math.max(...[...shown.keys()].map((name) => name.length));
        // A line that wraps would be drawn twice.
        const lines = [...shown.values()].map((one) => `\r\u001b[2K${progressLine(one, { width }).slice(0, (stream.columns ?? 80) - 1)}\n`);
        stream.write((drawn > 0 ? `\u001b[${drawn}A` : '') + lines.join(''));
        drawn = lines.length;
    };
}
