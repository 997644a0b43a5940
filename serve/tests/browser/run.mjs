// Runs the tests in this folder, and ends with a line that scripts/test reads.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const file = fileURLToPath(new URL('dashboard.test.mjs', import.meta.url));
const child = spawn(process.execPath, ['--test', '--test-reporter=tap', file], { stdio: ['ignore', 'pipe', 'inherit'] });
// Tests that hang are killed and count as a failure.
const timer = setTimeout(() => child.kill('SIGKILL'), 180_000);
let output = '';
child.stdout.setEncoding('utf8').on('data', (text) => { output += text; });
const code = await new Promise((resolve) => child.once('close', resolve));
clearTimeout(timer);
const count = (what) => Number(new RegExp(`^# ${what} (\\d+)$`, 'm').exec(output)?.[1] ?? 0);
const passed = count('pass');
const failed = Math.max(count('fail') + count('cancelled'), code === 0 && passed > 0 ? 0 : 1);
if (failed > 0) console.log(output);
console.log(`test result: ${failed === 0 ? 'ok' : 'FAILED'}. ${passed} passed; ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
