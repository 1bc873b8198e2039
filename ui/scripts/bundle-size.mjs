// Fails when what the window loads, fonts aside, is over a megabyte gzipped, or when the fake back end got in.
import { readFileSync, readdirSync } from 'node:fs';
import { extname, join } from 'node:path';
import { gzipSync } from 'node:zlib';

const LIMIT_BYTES = 1_000_000;
const FONTS = new Set(['.woff2', '.woff', '.ttf']);
const FAKE_MARK = 'octet-fake-backend';

const files = readdirSync('dist', { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath, entry.name));

let gzipped = 0;
let fonts = 0;
for (const file of files) {
  const bytes = readFileSync(file);
  if (FONTS.has(extname(file))) {
    fonts += bytes.length;
    continue;
  }
  if (bytes.includes(FAKE_MARK)) fail(`${file} holds the fake back end`);
  gzipped += gzipSync(bytes).length;
}

const kilobytes = (bytes) => `${(bytes / 1000).toFixed(0)} kB`;
console.log(`bundle: ${kilobytes(gzipped)} gzipped of ${kilobytes(LIMIT_BYTES)}, fonts ${kilobytes(fonts)} besides`);
if (gzipped > LIMIT_BYTES) fail('the bundle is too big');

function fail(why) {
  console.error(`bundle-size: ${why}`);
  process.exit(1);
}
