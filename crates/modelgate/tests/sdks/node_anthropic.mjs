// https://github.com/anthropics/anthropic-sdk-typescript, with its own number of retries.

import Anthropic from '@anthropic-ai/sdk';
import { cities, hello, keys, large, run, url } from './cases.mjs';

const client = key => new Anthropic({ baseURL: url, apiKey: keys[key], authToken: null });
const anyone = client('any');

async function message({ key = 'any', model = 'llama', messages = hello, ...more } = {}) {
  const answer = await client(key).messages.create({ model, max_tokens: 100, messages, ...more });
  return answer.content[0];
}

async function list() {
  const names = [];
  for await (const model of anyone.models.list()) names.push(model.id);
  return names;
}

async function callOfATool() {
  const tools = [{ name: 'weather', input_schema: cities }];
  return (await message({ model: 'llama-sim', tools, tool_choice: { type: 'any' } })).input.city;
}

async function twice(key) {
  return [(await message({ key })).text, (await message({ key })).text];
}

await run({
  list,
  chat: async () => (await message()).text,
  stream: () => anyone.messages.stream({ model: 'llama', max_tokens: 100, messages: hello }).finalText(),
  tools: callOfATool,
  count: async () => (await anyone.messages.countTokens({ model: 'llama', messages: hello })).input_tokens > 0,
  unknown_key: () => message({ key: 'unknown' }),
  unknown_model: () => message({ model: 'none' }),
  foreign_model: () => message({ key: 'llama', model: 'org/qwen' }),
  too_large: () => message({ messages: large }),
  rate: () => twice('hour'),
  quota: () => twice('day'),
  budget: () => message({ key: 'budget' }),
  wait: () => twice('minute'),
  loading: () => message({ model: 'slow' }),
});
