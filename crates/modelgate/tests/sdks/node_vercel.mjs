// https://ai-sdk.dev, with its own number of retries.

import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { embed, generateText, jsonSchema, streamText, tool } from 'ai';
import { cities, hello, joined, keys, large, run, url } from './cases.mjs';

const gateway = key =>
  createOpenAICompatible({ name: 'modelgate', baseURL: `${url}/v1`, apiKey: keys[key] });
const openai = key => createOpenAI({ baseURL: `${url}/v1`, apiKey: keys[key] });
const anthropic = key => createAnthropic({ baseURL: `${url}/v1`, apiKey: keys[key] });

async function ask(model, more = { messages: hello }) {
  return generateText({ model, ...more });
}

const chat = async ({ key = 'any', model = 'llama', messages = hello } = {}) =>
  (await ask(gateway(key)(model), { messages })).text;

async function stream() {
  return joined(streamText({ model: gateway('any')('llama'), messages: hello }).textStream, text => text);
}

/** `streamText` throws nothing: an error goes to `onError`. */
async function refusedStream() {
  let seen;
  const onError = ({ error }) => (seen = error);
  await streamText({ model: gateway('unknown')('llama'), messages: hello, onError }).consumeStream();
  throw seen;
}

async function callOfATool() {
  const tools = { weather: tool({ inputSchema: jsonSchema(cities) }) };
  const { toolCalls } = await ask(gateway('any')('llama-sim'), {
    messages: hello,
    tools,
    toolChoice: 'required',
  });
  return toolCalls[0].input.city;
}

async function embeddings() {
  const model = gateway('any').textEmbeddingModel('embeddings');
  return (await embed({ model, value: 'Hello' })).embedding.length > 0;
}

async function twice(key) {
  return [await chat({ key }), await chat({ key })];
}

await run({
  chat,
  stream,
  responses: async () => (await ask(openai('any')('llama'))).text,
  messages: async () => (await ask(anthropic('any')('llama'))).text,
  tools: callOfATool,
  embeddings,
  unknown_key: () => chat({ key: 'unknown' }),
  unknown_key_streamed: refusedStream,
  unknown_key_messages: () => ask(anthropic('unknown')('llama')),
  unknown_model: () => chat({ model: 'none' }),
  too_large: () => chat({ messages: large }),
  rate: () => twice('hour'),
  quota: () => twice('day'),
  budget: () => chat({ key: 'budget' }),
  wait: () => twice('minute'),
  loading: () => chat({ model: 'slow' }),
});
