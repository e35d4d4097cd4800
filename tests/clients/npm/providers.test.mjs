// Models and mail: destinations like others. Their own addresses are never called: messages to them wait, and are cancelled.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { anthropic, custom, openai, resend, upstash } from "@upstash/qstash";

import { FAR, Endpoint, client, ended } from "./site.mjs";

const endpoint = await new Endpoint().start();
after(() => endpoint.stop());

// What would be sent to a provider.
async function waiting(request) {
  const { messageId } = await client.publishJSON({ ...request, delay: FAR });
  const { url, header, body, method, callback } = await client.messages.get(messageId);
  await client.messages.cancel(messageId);
  await ended(messageId, "CANCELED");
  return { url, headers: new Headers(header), body: JSON.parse(body), method, callback };
}

test("a model of one's own", async () => {
  const path = endpoint.path({ status: 200, body: '{"answer": 42}' });
  const back = endpoint.path();
  const provider = custom({ baseUrl: endpoint.url(path), token: "t" });
  await client.publishJSON({ api: { name: "llm", provider }, body: { model: "m" }, callback: endpoint.url(back) });
  const [seen] = await endpoint.until(`${path}/v1/chat/completions`);
  assert.deepEqual([seen.headers.authorization, JSON.parse(seen.body)], ["Bearer t", { model: "m" }]);
  await endpoint.until(back);
});

test("models of others", async () => {
  const callback = endpoint.url("/never");
  const first = await waiting({ api: { name: "llm", provider: openai({ token: "o", organization: "org" }) }, body: { a: 1 }, callback });
  assert.deepEqual([first.url, first.method, first.callback], ["https://api.openai.com/v1/chat/completions", "POST", callback]);
  assert.deepEqual([first.headers.get("authorization"), first.headers.get("openai-organization")], ["Bearer o", "org"]);
  const second = await waiting({ api: { name: "llm", provider: anthropic({ token: "c" }) }, body: { a: 1 }, callback });
  assert.equal(second.url, "https://api.anthropic.com/v1/messages");
  assert.deepEqual([second.headers.get("x-api-key"), second.headers.get("anthropic-version")], ["c", "2023-06-01"]);
});

test("the server's own model", async () => {
  const { messageId } = await client.publishJSON({ api: { name: "llm", provider: upstash() }, body: { model: "m" }, delay: FAR, callback: endpoint.url("/never") });
  const { url } = await client.messages.get(messageId);
  assert.equal(url, `${process.env.MODEL_URL}/v1/chat/completions`);
  await client.messages.cancel(messageId);
});

test("a chat with the server's own model", async () => {
  const answer = await client.chat().create({ provider: upstash(), model: "m", messages: [{ role: "user", content: "hi" }] });
  assert.equal(answer.choices[0].message.content, "hello");
});

test("mail", async () => {
  const one = await waiting({ api: { name: "email", provider: resend({ token: "r" }) }, body: { to: "a@b.example" } });
  assert.deepEqual([one.url, one.headers.get("authorization"), one.body], ["https://api.resend.com/emails", "Bearer r", { to: "a@b.example" }]);
  const many = await waiting({ api: { name: "email", provider: resend({ token: "r", batch: true }) }, body: [{ to: "a@b.example" }] });
  assert.equal(many.url, "https://api.resend.com/emails/batch");
});

test("in a batch and through a queue", async () => {
  const provider = custom({ baseUrl: endpoint.url(endpoint.path()), token: "t" });
  const api = { name: "llm", provider };
  const [{ messageId }] = await client.batchJSON([{ api, body: { n: 1 }, callback: endpoint.url("/c"), delay: FAR }]);
  assert.equal((await client.messages.get(messageId)).url, `${provider.baseUrl}/v1/chat/completions`);
  await client.messages.cancel(messageId);
  const queue = client.queue({ queueName: "models" });
  await queue.upsert({ paused: true });
  const sent = await queue.enqueueJSON({ api, body: { n: 2 }, callback: endpoint.url("/c") });
  const { url, queueName } = await client.messages.get(sent.messageId);
  assert.deepEqual([url, queueName], [`${provider.baseUrl}/v1/chat/completions`, "models"]);
  await queue.delete();
});
