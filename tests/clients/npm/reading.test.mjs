// Dead letters, logs, and the keys that a receiver has.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { QstashError, Receiver } from "@upstash/qstash";

import { FAR, Endpoint, client, dead, ended, eventually, name } from "./site.mjs";

const endpoint = await new Endpoint().start();
after(() => endpoint.stop());
const missing = (error) => error instanceof QstashError && error.status === 404;

// The dead letter of a message to a path that refuses it.
async function die(path, options = {}) {
  endpoint.told.set(path, [{ status: 500, headers: { "X-Why": "because" }, body: "refused" }]);
  const { messageId } = await client.publish({ url: endpoint.url(path), body: "dead", retries: 0, ...options });
  return dead(messageId);
}

test("dead letters: listed, by filters, by ids, in pages", async () => {
  const label = name();
  const letters = [];
  for (let n = 0; n < 3; n++) letters.push(await die(endpoint.path(), { label, headers: { "X-One": "1" } }));
  const [{ dlqId, url, responseStatus, responseBody, responseHeader, header, body }] = letters;
  assert.deepEqual([responseStatus, responseBody, body], [500, "refused", "dead"]);
  assert.deepEqual([new Headers(responseHeader).get("x-why"), new Headers(header).get("x-one")], ["because", "1"]);
  const ids = ({ messages }) => messages.map((one) => one.dlqId);
  const all = letters.map((one) => one.dlqId);
  assert.deepEqual(ids(await client.dlq.listMessages({ filter: { label } })), all);
  assert.deepEqual(ids(await client.dlq.listMessages({ filter: { label, url } })), [dlqId]);
  assert.deepEqual(ids(await client.dlq.listMessages({ filter: { label, responseStatus: 404 } })), []);
  assert.deepEqual(ids(await client.dlq.listMessages({ dlqIds: all.slice(1) })), all.slice(1));
  const first = await client.dlq.listMessages({ count: 2, filter: { label } });
  const second = await client.dlq.listMessages({ count: 2, filter: { label }, cursor: first.cursor });
  assert.deepEqual([...ids(first), ...ids(second)], all);
  assert.ok(!second.cursor);
  assert.deepEqual(await client.dlq.delete(dlqId), { deleted: 1 });
  await assert.rejects(client.dlq.delete(dlqId), missing);
  assert.deepEqual((await client.dlq.delete([all[1]])).deleted, 1);
  assert.deepEqual((await client.dlq.delete({ filter: { label } })).deleted, 1);
  assert.deepEqual((await client.dlq.deleteMany({ dlqIds: all })).deleted, 0);
  assert.deepEqual(await client.dlq.delete([]), { deleted: 0 });
});

test("dead letters: retried", async () => {
  const label = name();
  const paths = [endpoint.path(), endpoint.path(), endpoint.path()];
  const letters = [];
  for (const path of paths) letters.push(await die(path, { label, headers: { "X-One": "1" } }));
  for (const path of paths) endpoint.told.set(path, [{ status: 200 }]);
  const { responses } = await client.dlq.retry(letters[0].dlqId);
  assert.equal(responses.length, 1);
  const again = (await endpoint.until(paths[0], 2))[1];
  assert.deepEqual([again.body, again.headers["x-one"], again.headers["upstash-retried"]], ["dead", "1", "0"]);
  assert.equal(again.headers["upstash-message-id"], responses[0].messageId);
  assert.notEqual(responses[0].messageId, letters[0].messageId);
  await ended(responses[0].messageId);
  assert.deepEqual((await client.dlq.listMessages({ dlqIds: [letters[0].dlqId] })).messages, []);
  assert.equal((await client.dlq.retry([letters[1].dlqId])).responses.length, 1);
  const rest = await client.dlq.retry({ filter: { label } });
  assert.deepEqual([rest.responses.length, rest.cursor], [1, undefined]);
  for (const path of paths) await endpoint.until(path, 2);
  assert.deepEqual(await client.dlq.retry([]), { responses: [] });
});

test("dead letters: all of them, in steps", async () => {
  for (let n = 0; n < 3; n++) await die(endpoint.path());
  let cursor;
  let deleted = 0;
  do {
    const result = await client.dlq.delete({ all: true, count: 2, cursor });
    deleted += result.deleted;
    cursor = result.cursor;
  } while (cursor);
  assert.ok(deleted >= 3);
  assert.deepEqual((await client.dlq.listMessages()).messages, []);
});

test("logs", async () => {
  const label = name();
  const path = endpoint.path({ status: 500, body: "no" }, { status: 200 });
  const { messageId } = await client.publish({ url: endpoint.url(path), body: "b", label, retryDelay: "50", retries: 2 });
  const other = await client.publish({ url: endpoint.url(endpoint.path()), label });
  assert.deepEqual(await ended(messageId), ["CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "DELIVERED"]);
  await ended(other.messageId);
  const { logs, events } = await client.logs({ messageIds: [messageId] });
  assert.deepEqual(events, logs);
  const error = logs.find((log) => log.state === "ERROR");
  assert.deepEqual([error.responseStatus, atob(error.responseBody), atob(error.body)], [500, "no", "b"]);
  assert.deepEqual([error.maxRetries, error.retryDelayExpression, error.label], [2, "50", label]);
  assert.ok(logs.find((log) => log.state === "RETRY").nextDeliveryTime > 0);
  const times = logs.map((log) => log.time);
  assert.deepEqual(times, times.toSorted((a, b) => b - a));
  const only = await client.logs({ filter: { label, state: "DELIVERED" } });
  assert.deepEqual(only.logs.map((log) => log.messageId).sort(), [messageId, other.messageId].sort());
  assert.deepEqual((await client.events({ filter: { label, state: ["FAILED", "CANCELED"] } })).events, []);
  const found = [];
  let cursor;
  do {
    const page = await client.logs({ cursor, count: 4, filter: { label, fromDate: Date.now() - 60_000 } });
    found.push(...page.logs);
    cursor = page.cursor;
  } while (cursor);
  assert.deepEqual([found.length, new Set(found.map((log) => `${log.messageId} ${log.time} ${log.state}`)).size], [9, 9]);
});

test("a receiver with the keys of its environment verifies before and after a rotation", async () => {
  const ask = async (method, path) => (await fetch(`${process.env.QSTASH_URL}/v2/${path}`, { method, headers: { Authorization: `Bearer ${process.env.QSTASH_TOKEN}` } })).json();
  const old = await ask("GET", "keys");
  process.env.QSTASH_CURRENT_SIGNING_KEY = old.current;
  process.env.QSTASH_NEXT_SIGNING_KEY = old.next;
  const receiver = new Receiver();
  const deliver = async () => {
    const path = endpoint.path();
    await client.publishJSON({ url: endpoint.url(path), body: { a: 1 } });
    const [seen] = await endpoint.until(path);
    return { signature: seen.headers["upstash-signature"], body: seen.body, url: endpoint.url(path) };
  };
  assert.equal(await receiver.verify(await deliver()), true);
  const rotated = await ask("POST", "keys/rotate");
  assert.equal(rotated.current, old.next);
  const anew = new Receiver({ currentSigningKey: rotated.current, nextSigningKey: rotated.current });
  await eventually(async () => {
    const delivered = await deliver();
    assert.equal(await receiver.verify(delivered), true);
    return anew.verify(delivered);
  });
});
