// Builds the client, runs all test files one after the other, and ends with a line that scripts/test reads.
import { execFileSync, spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('..', import.meta.url));
execFileSync('cargo', ['build', '--quiet', '--release', '-p', 'outbox-harness', '--bin', 'serve'], { cwd: `${here}../..`, stdio: 'inherit' });
execFileSync(process.execPath, [`${here}scripts/build.mjs`], { stdio: 'inherit' });

let passed = 0;
let failed = 0;
const named = process.argv.slice(2);
const files = readdirSync(`${here}test`).filter((name) => name.endsWith('.test.mjs') && (named.length === 0 || named.some((part) => name.includes(part))));
for (const file of files.sort()) {
    const lines = [];
    const child = spawn(process.execPath, ['--test', '--test-reporter=tap', `${here}test/${file}`], { cwd: here, stdio: ['ignore', 'pipe', 'inherit'] });
    // A test file that hangs is killed after 600 s and counts as a failure.
    const timer = setTimeout(() => child.kill('SIGKILL'), 600_000);
    child.stdout.setEncoding('utf8').on('data', (text) => lines.push(text));
    const code = await new Promise((resolve) => child.once('close', resolve));
    clearTimeout(timer);
    const output = lines.join('');
    const count = (what) => Number(new RegExp(`^# ${what} (\\d+)$`, 'm').exec(output)?.[1] ?? 0);
    passed += count('pass');
    const bad = Math.max(count('fail') + count('cancelled'), code === 0 ? 0 : 1);
    failed += bad;
    console.log(`${file}: ${count('pass')} passed, ${bad} failed`);
    if (bad > 0) console.log(output);
}
console.log(`test result: ${failed === 0 && passed > 0 ? 'ok' : 'FAILED'}. ${passed} passed; ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
