// Takes the pictures of docs/dashboard from a dashboard that runs: `picture.mjs URL FOLDER PATH=NAME...`. The token is that of
// OUTBOX_SERVE_TOKEN. A name that ends in -narrow is of a telephone in the dark.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { NARROW, WIDE, browse, logIn } from './stage.mjs';

const [url, folder, ...wanted] = process.argv.slice(2);
const browser = await browse();
for (const pair of wanted) {
    const at = pair.lastIndexOf('=');
    const [path, name] = [pair.slice(0, at), pair.slice(at + 1)];
    const narrow = name.endsWith('-narrow');
    const how = narrow ? NARROW : { ...WIDE, viewport: { width: 1240, height: 980 } };
    const page = await logIn(browser, { url }, how);
    await page.goto(path);
    const session = await page.context().newCDPSession(page);
    const { data } = await session.send('Page.captureScreenshot', { format: 'webp', quality: narrow ? 60 : 70 });
    await writeFile(join(folder, `${name}.webp`), Buffer.from(data, 'base64'));
    await page.context().close();
}
await browser.close();
