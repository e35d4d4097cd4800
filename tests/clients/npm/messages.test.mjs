// Publish, enqueue, batch; what destinations receive; read back and cancelled.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { Client, QstashEmptyArrayError, QstashError, Receiver } from "@upstash/qstash";

import { FAR, Endpoint, client, dead, ended, eventually, name } from "./site.mjs";

const endpoint = await new Endpoint().start();
after(() => endpoint.stop());

test("publish", async () => {
  const path = endpoint.path();
  const url = endpoint.url(`${path}?x=1&y=%20z`);
  const { messageId, deduplicated } = await client.publish({
    url, body: "żółw", method: "PUT", headers: { "X-Tenant": "seven", "Content-Type": "text/x" }, label: ["one", "two"],
  });
  const [seen] = await endpoint.until(path);
  assert.deepEqual([seen.method, seen.query, seen.body], ["PUT", "x=1&y=%20z", "żółw"]);
  assert.deepEqual([seen.headers["x-tenant"], seen.headers["content-type"]], ["seven", "text/x"]);
  assert.equal(seen.headers["upstash-message-id"], messageId);
  assert.deepEqual(Object.keys(seen.headers).filter((key) => /telemetry|authorization|upstash-(method|label)/.test(key)), []);
  assert.ok(!deduplicated);
  const message = await client.messages.get(messageId);
  assert.deepEqual([message.url, message.method, message.body], [url, "PUT", "żółw"]);
  assert.deepEqual([message.label, message.labels], ["one", ["one", "two"]]);
  assert.equal(new Headers(message.header).get("x-tenant"), "seven");
  assert.ok(!("ratePerSecond" in message && message.ratePerSecond !== undefined));
  assert.deepEqual(await ended(messageId), ["CREATED", "ACTIVE", "DELIVERED"]);
});

test("publish with headers of the client's own, as its default", async () => {
  const path = endpoint.path();
  const other = new Client({ retry: false, headers: { "X-Always": "1", "X-Changed": "a" } });
  await other.publishJSON({ url: endpoint.url(path), body: { a: 1 }, headers: { "x-changed": "b" } });
  const [seen] = await endpoint.until(path);
  assert.deepEqual([seen.headers["x-always"], seen.headers["x-changed"]], ["1", "b"]);
  assert.deepEqual([JSON.parse(seen.body), seen.headers["content-type"]], [{ a: 1 }, "application/json"]);
});

test("everything that is said of a message is read back", async () => {
  const url = endpoint.url("/never");
  const key = name();
  const { messageId } = await client.publishJSON({
    url, body: [1], delay: FAR, retries: 4, retryDelay: "1000 * (1 + retried)", timeout: "40s",
    callback: `${url}/c`, failureCallback: `${url}/f`,
    flowControl: { key, parallelism: 2, rate: 9, period: "1m" }, label: "l",
  });
  const message = await client.messages.get(messageId);
  assert.deepEqual([message.maxRetries, message.retryDelayExpression], [4, "1000 * (1 + retried)"]);
  assert.deepEqual([message.callback, message.failureCallback], [`${url}/c`, `${url}/f`]);
  const { flowControlKey, parallelism, rate, ratePerSecond, period } = message;
  assert.deepEqual([flowControlKey, parallelism, rate, ratePerSecond, period], [key, 2, 9, 9, 60]);
  assert.ok(message.notBefore - Date.now() > 86_400_000);
  assert.ok(Math.abs(message.createdAt - Date.now()) < 60_000);
  assert.deepEqual(await client.messages.cancel(messageId), { cancelled: 1 });
});

test("a group gets a message for each member", async () => {
  const group = name();
  const paths = [endpoint.path(), endpoint.path()];
  await client.urlGroups.addEndpoints({ name: group, endpoints: paths.map((path, n) => ({ url: endpoint.url(path), name: `m${n}` })) });
  const sent = await client.publishJSON({ urlGroup: group, body: { a: 1 } });
  assert.deepEqual(sent.map((one) => one.url).sort(), paths.map((path) => endpoint.url(path)).sort());
  for (const path of paths) {
    const [seen] = await endpoint.until(path);
    const { messageId } = sent.find((one) => one.url === endpoint.url(path));
    assert.deepEqual([seen.headers["upstash-message-id"], seen.headers["upstash-topic-name"]], [messageId, group]);
    assert.equal((await client.messages.get(messageId)).urlGroup, group);
  }
  await client.publish({ topic: group, body: "by its old name" });
  await endpoint.until(paths[0], 2);
  await client.urlGroups.delete(group);
});

test("duplicates", async () => {
  const path = endpoint.path();
  const deduplicationId = name();
  const first = await client.publish({ url: endpoint.url(path), body: "1", deduplicationId });
  const again = await client.publish({ url: endpoint.url(path), body: "2", deduplicationId });
  assert.deepEqual([again.messageId, again.deduplicated], [first.messageId, true]);
  const same = { url: endpoint.url(path), body: "same", contentBasedDeduplication: true };
  assert.ok(!(await client.publish(same)).deduplicated);
  assert.ok((await client.publish(same)).deduplicated);
  assert.ok(!(await client.publish({ ...same, body: "other" })).deduplicated);
  assert.equal((await endpoint.until(path, 3)).length, 3);
});

test("delay and notBefore", async () => {
  const path = endpoint.path();
  const before = Date.now();
  await client.publish({ url: endpoint.url(path), delay: 1 });
  await endpoint.until(path);
  assert.ok(Date.now() - before >= 1000);
  const notBefore = Math.floor(Date.now() / 1000) + 3600;
  const { messageId } = await client.publish({ url: endpoint.url(path), notBefore });
  assert.equal((await client.messages.get(messageId)).notBefore, notBefore * 1000);
  await client.messages.delete(messageId);
  await ended(messageId, "CANCELED");
});

test("retries, a callback after each attempt, signatures", async () => {
  const path = endpoint.path({ status: 500, body: "no" }, { status: 200, body: "yes" });
  const back = endpoint.path();
  const { current, next } = await (await fetch(`${process.env.QSTASH_URL}/v2/keys`, { headers: { Authorization: `Bearer ${process.env.QSTASH_TOKEN}` } })).json();
  const receiver = new Receiver({ currentSigningKey: current, nextSigningKey: next });
  const { messageId } = await client.publish({
    url: endpoint.url(path), body: "source", retryDelay: "50", callback: endpoint.url(back),
    headers: { "Upstash-Callback-Forward-X-Back": "b" },
  });
  const verify = (seen) => receiver.verify({ signature: seen.headers["upstash-signature"], body: seen.body, url: endpoint.url(seen.path) });
  const attempts = await endpoint.until(path, 2);
  assert.deepEqual(attempts.map((one) => one.headers["upstash-retried"]), ["0", "1"]);
  const calls = await endpoint.until(back, 2);
  for (const seen of [...attempts, ...calls]) assert.equal(await verify(seen), true);
  await assert.rejects(verify({ ...attempts[0], body: "forged" }), /body hash/);
  await assert.rejects(verify({ ...attempts[0], path: "/other" }), /subject/);
  const told = calls.map((one) => JSON.parse(one.body)).sort((a, b) => a.retried - b.retried);
  assert.deepEqual(told.map((one) => [one.status, atob(one.body), one.retried]), [[500, "no", 0], [200, "yes", 1]]);
  assert.deepEqual([told[0].sourceMessageId, atob(told[0].sourceBody)], [messageId, "source"]);
  assert.equal(calls[0].headers["x-back"], "b");
});

test("a failure callback", async () => {
  const path = endpoint.path({ status: 500 });
  const back = endpoint.path();
  const { messageId } = await client.publish({ url: endpoint.url(path), retries: 0, failureCallback: endpoint.url(back) });
  const [call] = await endpoint.until(back);
  assert.equal(JSON.parse(call.body).dlqId, (await dead(messageId)).dlqId);
});

test("enqueue, in order", async () => {
  const queueName = name();
  const path = endpoint.path({ status: 500 }, { status: 200 });
  const queue = client.queue({ queueName });
  const first = await queue.enqueueJSON({ url: endpoint.url(path), body: 0, retryDelay: "50" });
  await queue.enqueue({ url: endpoint.url(path), body: "1" });
  await queue.enqueue({ url: endpoint.url(path), body: "2", delay: "1s" });
  assert.deepEqual((await endpoint.until(path, 4)).map((one) => one.body), ["0", "0", "1", "2"]);
  assert.equal((await client.messages.get(first.messageId)).queueName, queueName);
  await queue.delete();
});

test("batch", async () => {
  const queueName = name();
  const group = name();
  const [plain, member, enqueued] = [endpoint.path(), endpoint.path(), endpoint.path()];
  await client.urlGroups.addEndpoints({ name: group, endpoints: [{ url: endpoint.url(member) }] });
  const answers = await client.batch([
    { url: endpoint.url(plain), body: "a", headers: { "X-N": "1" }, method: "PUT" },
    { urlGroup: group, body: "b" },
    { queueName, url: endpoint.url(enqueued), body: "c" },
  ]);
  const [[a], [b], [c]] = [await endpoint.until(plain), await endpoint.until(member), await endpoint.until(enqueued)];
  assert.deepEqual([a.body, a.method, a.headers["x-n"], b.body, c.body], ["a", "PUT", "1", "b", "c"]);
  assert.equal(a.headers["upstash-message-id"], answers[0].messageId);
  assert.equal(b.headers["upstash-message-id"], answers[1][0].messageId);
  assert.equal((await client.messages.get(answers[2].messageId)).queueName, queueName);
  await client.queue({ queueName }).delete();
  await client.urlGroups.delete(group);
});

test("batchJSON, with an item that cannot be sent", async () => {
  const path = endpoint.path();
  const [good, bad] = await client.batchJSON([
    { url: endpoint.url(path), body: { n: 1 }, label: "l" },
    { url: endpoint.url(path), body: { n: 2 }, retryDelay: "system('ls')" },
  ]);
  const [seen] = await endpoint.until(path);
  assert.deepEqual([JSON.parse(seen.body), seen.headers["content-type"]], [{ n: 1 }, "application/json"]);
  assert.equal(seen.headers["upstash-message-id"], good.messageId);
  assert.match(bad.error, /retry-delay/i);
});

test("cancel: one, some, by filter, all", async () => {
  const label = name();
  const publish = async () => (await client.publish({ url: endpoint.url("/never"), delay: FAR, label })).messageId;
  const ids = [];
  for (let n = 0; n < 7; n++) ids.push(await publish());
  assert.deepEqual(await client.messages.cancel(ids[0]), { cancelled: 1 });
  assert.deepEqual(await client.messages.cancel(ids.slice(1, 3)), { cancelled: 2 });
  assert.deepEqual(await client.messages.cancel({ messageIds: [ids[3]] }), { cancelled: 1 });
  assert.equal(await client.messages.deleteMany([ids[4]]), 1);
  assert.deepEqual(await client.messages.cancel({ filter: { label: "of no message" } }), { cancelled: 0 });
  assert.deepEqual(await client.messages.cancel({ filter: { label: [label, "x"], host: new URL(endpoint.url("/")).host } }), { cancelled: 2 });
  ids.push(await publish());
  assert.ok((await client.messages.cancel({ all: true })).cancelled >= 1);
  assert.equal(await client.messages.deleteAll(), 0);
  for (const id of ids) await ended(id, "CANCELED");
  assert.deepEqual(await client.messages.cancel([]), { cancelled: 0 });
});

test("cancel by dates, URL, path, queue and flow key", async () => {
  const queueName = name();
  const key = name();
  const path = endpoint.path();
  await client.queue({ queueName }).upsert({ paused: true });
  const enqueued = await client.queue({ queueName }).enqueue({ url: endpoint.url(path), body: "q" });
  const keyed = await client.publish({ url: endpoint.url(path), delay: FAR, flowControl: { key, rate: 1 } });
  const plain = await client.publish({ url: endpoint.url(path), delay: FAR });
  assert.deepEqual(await client.messages.cancel({ filter: { queueName } }), { cancelled: 1 });
  await client.queue({ queueName }).resume();
  await ended(enqueued.messageId, "CANCELED");
  assert.deepEqual(await client.messages.cancel({ filter: { flowControlKey: key, fromDate: new Date(Date.now() - 60_000), toDate: Date.now() + 60_000 } }), { cancelled: 1 });
  assert.deepEqual(await client.messages.cancel({ filter: { url: endpoint.url(path), toDate: 1000 } }), { cancelled: 0 });
  assert.deepEqual(await client.messages.cancel({ filter: { path, callerIp: "127.0.0.1" } }), { cancelled: 1 });
  for (const { messageId } of [keyed, plain]) await ended(messageId, "CANCELED");
  assert.deepEqual(endpoint.requests(path), []);
  await client.queue({ queueName }).delete();
});

test("errors", async () => {
  const refused = (status, text) => (error) => error instanceof QstashError && error.status === status && text.test(JSON.parse(error.message).error);
  await assert.rejects(client.messages.get("msg_none"), refused(404, /msg_none/));
  await assert.rejects(client.messages.cancel("msg_none"), refused(404, /./));
  await assert.rejects(client.publish({ url: "ftp://example.com" }), refused(400, /endpoint has invalid scheme, add http:\/\/ or https:\/\//));
  await assert.rejects(client.publish({ url: endpoint.url("/"), retryDelay: "1 +" }), refused(400, /retry-delay/i));
  await assert.rejects(client.publish({ urlGroup: "no-such-group" }), (error) => [400, 404].includes(error.status));
  const stranger = new Client({ baseUrl: process.env.QSTASH_URL, token: "wrong", retry: false });
  await assert.rejects(stranger.publish({ url: endpoint.url("/") }), refused(401, /./));
  await assert.rejects(client.logs({ messageIds: [] }), QstashEmptyArrayError);
});

test("redacted", async () => {
  const path = endpoint.path({ status: 500 });
  const { messageId } = await client.publish({ url: endpoint.url(path), body: "secret", headers: { "X-Key": "k" }, retries: 0, redact: { body: true, header: ["X-Key"] } });
  const { body, header } = await dead(messageId);
  assert.match(body, /^REDACTED:[0-9a-f]{64}$/);
  assert.match(new Headers(header).get("x-key"), /^REDACTED:[0-9a-f]{64}$/);
  assert.deepEqual([endpoint.requests(path)[0].body, endpoint.requests(path)[0].headers["x-key"]], ["secret", "k"]);
  const hidden = await client.publish({ url: endpoint.url(path), delay: FAR, headers: { "X-Key": "k" }, redact: { header: true } });
  assert.match(new Headers((await client.messages.get(hidden.messageId)).header).get("x-key"), /^REDACTED:/);
  await client.messages.cancel(hidden.messageId);
});

test("a workflow's run is none of ours", async () => {
  await assert.rejects(client.workflow.cancel("wfr_1"), (error) => error.status === 404);
});
