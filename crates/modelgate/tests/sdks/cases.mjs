// As cases.py, for clients in Node.js.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

export const settings = JSON.parse(process.env.MODELGATE_SDK_SETTINGS);
export const { url, keys } = settings;
export const hello = [{ role: 'user', content: 'Hello' }];
/** More than `requests.max_body`. */
export const large = [{ role: 'user', content: 'Hello '.repeat(150_000) }];
export const cities = {
  type: 'object',
  properties: { city: { type: 'string', enum: ['Paris', 'Rome'] } },
  required: ['city'],
};

/** What the page's lines print. They are run from the folder, in which the packages are found. */
async function page() {
  const said = [];
  const { log } = console;
  const { write } = process.stdout;
  console.log = (...values) => said.push(values.join(' '), '\n');
  process.stdout.write = text => said.push(String(text));
  try {
    const blocks = [...settings.page.matchAll(/^```(?:js|ts)\n(.*?)^```$/gms)].map(match => match[1]);
    for (const [index, block] of blocks.entries()) {
      const file = join(settings.folder, `page${index}.mjs`);
      writeFileSync(file, block);
      await import(pathToFileURL(file));
    }
  } finally {
    console.log = log;
    process.stdout.write = write;
  }
  return said.join('');
}

/** The name of an error as its user sees it: SDKs that minify or do not set `name` have the class's. */
const nameOf = error => (error.name && error.name !== 'Error' ? error.name : error.constructor.name);

async function told(name, call) {
  const started = performance.now();
  let line;
  try {
    line = { said: String(await call()) };
  } catch (error) {
    const status = error.status ?? error.status_code ?? error.statusCode ?? error.lastError?.statusCode ?? null;
    line = { error: nameOf(error), status, text: error.message };
  }
  return { case: name, ...line, seconds: (performance.now() - started) / 1000 };
}

/** One after another, but for `loading`, in which one waits for most of the time. */
export async function run(cases) {
  const lines = [await told('page', page)];
  const waiting = told('loading', cases.loading);
  for (const [name, call] of Object.entries(cases)) {
    if (name !== 'loading') lines.push(await told(name, call));
  }
  for (const line of [...lines, await waiting]) console.log(JSON.stringify(line));
}

/** The parts of a stream, put together. */
export async function joined(stream, text) {
  let whole = '';
  for await (const part of stream) whole += text(part) ?? '';
  return whole;
}
