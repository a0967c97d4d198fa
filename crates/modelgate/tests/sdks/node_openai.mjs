// https://github.com/openai/openai-node, with its own number of retries.

import { cities, hello, joined, keys, large, run, url } from './cases.mjs';
import OpenAI, { toFile } from 'openai';

const client = key => new OpenAI({ baseURL: `${url}/v1`, apiKey: keys[key] });
const anyone = client('any');

async function chat({ key = 'any', model = 'llama', messages = hello, ...more } = {}) {
  const answer = await client(key).chat.completions.create({ model, messages, ...more });
  return answer.choices[0].message;
}

async function list() {
  const names = [];
  for await (const model of anyone.models.list()) names.push(model.id);
  return names;
}

async function stream() {
  const chunks = await anyone.chat.completions.create({ model: 'llama', messages: hello, stream: true });
  return joined(chunks, chunk => chunk.choices[0]?.delta.content);
}

async function callOfATool() {
  const tools = [{ type: 'function', function: { name: 'weather', parameters: cities } }];
  const message = await chat({ model: 'llama-sim', tools, tool_choice: 'required' });
  return message.tool_calls[0].function.arguments;
}

async function upload() {
  const file = await toFile(Buffer.alloc(50_000), 'speech.wav');
  return (await anyone.audio.transcriptions.create({ model: 'llama-sim', file })).text;
}

async function twice(key) {
  return [(await chat({ key })).content, (await chat({ key })).content];
}

await run({
  list,
  one: async () => (await anyone.models.retrieve('org/qwen')).id,
  chat: async () => (await chat()).content,
  stream,
  responses: async () => (await anyone.responses.create({ model: 'llama', input: 'Hello' })).output_text,
  tools: callOfATool,
  embeddings: async () =>
    (await anyone.embeddings.create({ model: 'embeddings', input: ['Hello', 'you'] })).data.length,
  upload,
  unknown_key: () => chat({ key: 'unknown' }),
  unknown_model: () => chat({ model: 'none' }),
  foreign_model: () => chat({ key: 'llama', model: 'org/qwen' }),
  too_large: () => chat({ messages: large }),
  rate: () => twice('hour'),
  quota: () => twice('day'),
  budget: () => chat({ key: 'budget' }),
  wait: () => twice('minute'),
  loading: () => chat({ model: 'slow' }),
});
