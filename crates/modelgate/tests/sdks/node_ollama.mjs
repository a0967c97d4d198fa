// https://github.com/ollama/ollama-js.

import { hello, joined, keys, large, run, url } from './cases.mjs';
import { Ollama } from 'ollama';

const client = key => new Ollama({ host: url, headers: { Authorization: `Bearer ${keys[key]}` } });
const anyone = client('any');

async function chat({ key = 'any', model = 'llama3', messages = hello } = {}) {
  return (await client(key).chat({ model, messages })).message;
}

async function streamed(key) {
  const parts = await client(key).chat({ model: 'llama3', messages: hello, stream: true });
  return joined(parts, part => part.message.content);
}

async function twice(key) {
  return [(await chat({ key })).content, (await chat({ key })).content];
}

await run({
  list: async () => (await anyone.list()).models.map(model => model.name),
  ps: async () => (await anyone.ps()).models.map(model => model.name),
  show: async () => (await anyone.show({ model: 'llama3' })).details.family,
  chat: async () => (await chat()).content,
  stream: () => streamed('any'),
  generate: async () => (await anyone.generate({ model: 'llama3', prompt: 'Hello' })).response,
  embeddings: async () => (await anyone.embed({ model: 'llama3', input: 'Hello' })).embeddings.length,
  unknown_key: () => chat({ key: 'unknown' }),
  unknown_key_streamed: () => streamed('unknown'),
  unknown_model: () => chat({ model: 'none' }),
  pull: () => anyone.pull({ model: 'llama3' }),
  too_large: () => chat({ messages: large }),
  rate: () => twice('hour'),
  minute: () => twice('minute'),
  quota: () => twice('day'),
  budget: () => chat({ key: 'budget' }),
  loading: () => chat({ model: 'slow3' }),
});
