// Queues, URL groups, schedules, flow control.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { QstashError } from "@upstash/qstash";

import { FAR, Endpoint, client, eventually, name } from "./site.mjs";

const endpoint = await new Endpoint().start();
after(() => endpoint.stop());
const missing = (error) => error instanceof QstashError && error.status === 404;
const wrong = (error) => error instanceof QstashError && error.status === 400;

test("queues", async () => {
  const queueName = name();
  const queue = client.queue({ queueName });
  await queue.upsert({ parallelism: 2 });
  const found = await queue.get();
  assert.deepEqual([found.name, found.parallelism, found.lag, found.paused], [queueName, 2, 0, false]);
  assert.ok(found.createdAt > 0 && found.updatedAt >= found.createdAt);
  await queue.upsert({ parallelism: 3, paused: true });
  assert.deepEqual([(await queue.get()).parallelism, (await queue.get()).paused], [3, true]);
  assert.ok((await client.queue().list()).some((one) => one.name === queueName));
  await queue.delete();
  await queue.delete();
  await assert.rejects(queue.get(), missing);
  await assert.rejects(client.queue({ queueName: "a b" }).upsert({}), wrong);
  await assert.rejects(queue.upsert({ parallelism: 0 }), wrong);
});

test("a paused queue", async () => {
  const queue = client.queue({ queueName: name() });
  const path = endpoint.path();
  await queue.upsert({ paused: true }); // a later pause may take a second
  for (const body of ["0", "1"]) await queue.enqueue({ url: endpoint.url(path), body });
  assert.deepEqual([(await queue.get()).lag, endpoint.requests(path).length], [2, 0]);
  await queue.resume();
  assert.deepEqual((await endpoint.until(path, 2)).map((one) => one.body), ["0", "1"]);
  await queue.pause();
  assert.equal((await queue.get()).paused, true);
  await queue.delete();
});

test("URL groups", async () => {
  const group = name();
  const { urlGroups } = client;
  await urlGroups.delete(group);
  await urlGroups.addEndpoints({ name: group, endpoints: [{ url: "https://a.example" }, { url: "https://b.example", name: "b" }] });
  const found = await urlGroups.get(group);
  assert.equal(found.name, group);
  assert.deepEqual(found.endpoints, [{ url: "https://a.example" }, { name: "b", url: "https://b.example" }]);
  assert.ok((await client.topics.list()).some((one) => one.name === group));
  await urlGroups.removeEndpoints({ name: group, endpoints: [{ name: "b" }] });
  assert.deepEqual((await urlGroups.get(group)).endpoints, [{ url: "https://a.example" }]);
  await urlGroups.removeEndpoints({ name: group, endpoints: [{ url: "https://a.example" }] });
  await assert.rejects(urlGroups.get(group), missing);
});

test("schedules", async () => {
  const { schedules } = client;
  const queueName = name();
  const key = name();
  const destination = endpoint.url("/never?a=b");
  const { scheduleId } = await schedules.create({
    destination, cron: "1 1 1 1 *", body: JSON.stringify({ a: 1 }), method: "PUT", headers: { "X-One": "1" }, retries: 2,
    retryDelay: "5000 * retried", callback: endpoint.url("/c"), failureCallback: endpoint.url("/f"), delay: 90, timeout: "20s",
    queueName, flowControl: { key, rate: 3, period: 60 }, label: ["one", "two"],
  });
  const found = await schedules.get(scheduleId);
  assert.deepEqual([found.scheduleId, found.destination, found.cron, found.method], [scheduleId, destination, "1 1 1 1 *", "PUT"]);
  assert.deepEqual([JSON.parse(found.body), new Headers(found.header).get("x-one")], [{ a: 1 }, "1"]);
  assert.equal(new Headers(found.header).get("content-type"), "application/json");
  assert.deepEqual([found.retries, found.retryDelayExpression, found.delay], [2, "5000 * retried", 90]);
  assert.deepEqual([found.callback, found.failureCallback], [endpoint.url("/c"), endpoint.url("/f")]);
  assert.deepEqual([found.queueName, found.flowControlKey, found.rate, found.ratePerSecond, found.period], [queueName, key, 3, 3, 60]);
  assert.deepEqual([found.label, found.labels, found.isPaused, found.callerIp], ["one", ["one", "two"], false, "127.0.0.1"]);
  assert.ok(found.nextScheduleTime > Date.now() && !("parallelism" in found));
  await schedules.pause({ schedule: scheduleId });
  assert.equal((await schedules.get(scheduleId)).isPaused, true);
  await schedules.resume({ schedule: scheduleId });
  assert.equal((await schedules.get(scheduleId)).isPaused, false);
  assert.deepEqual(await schedules.create({ scheduleId, destination, cron: "CRON_TZ=Europe/Berlin 0 8 * * 1" }), { scheduleId });
  assert.equal((await schedules.get(scheduleId)).body, undefined);
  assert.equal((await schedules.get(scheduleId)).cron, "CRON_TZ=Europe/Berlin 0 8 * * 1");
  assert.equal((await schedules.list()).filter((one) => one.scheduleId === scheduleId).length, 1);
  await schedules.delete(scheduleId);
  await assert.rejects(schedules.get(scheduleId), missing);
  await assert.rejects(schedules.create({ destination, cron: "often" }), wrong);
});

test("flow control", async () => {
  const { flowControl } = client;
  const key = name();
  const path = endpoint.path();
  await client.publish({ url: endpoint.url(path), flowControl: { key, parallelism: 4, rate: 50 } });
  await endpoint.until(path);
  const found = await flowControl.get(key);
  assert.deepEqual([found.flowControlKey, found.parallelismMax, found.rateMax, found.ratePeriod], [key, 4, 50, 1]);
  assert.deepEqual([found.isPaused, found.isPinnedParallelism, found.isPinnedRate], [false, false, false]);
  await flowControl.pause(key);
  const { messageId } = await client.publish({ url: endpoint.url(path), flowControl: { key, parallelism: 4 } });
  await eventually(async () => (await flowControl.get(key)).waitListSize === 1);
  assert.equal(endpoint.requests(path).length, 1);
  await flowControl.resume(key);
  assert.equal((await endpoint.until(path, 2))[1].headers["upstash-message-id"], messageId);
  await flowControl.pin(key, { parallelism: 2, rate: 5, period: "1m" });
  const pinned = await flowControl.get(key);
  assert.deepEqual([pinned.parallelismMax, pinned.rateMax, pinned.ratePeriod], [2, 5, 60]);
  assert.deepEqual([pinned.isPinnedParallelism, pinned.isPinnedRate], [true, true]);
  await flowControl.resetRate(key);
  assert.equal((await flowControl.get(key)).rateCount, 0);
  await flowControl.unpin(key, { parallelism: true, rate: true });
  const free = await flowControl.get(key);
  assert.deepEqual([free.isPinnedParallelism, free.isPinnedRate], [false, false]);
  const all = await flowControl.getGlobalParallelism();
  assert.ok(all.parallelismMax > 0 && all.parallelismCount >= 0);
  await assert.rejects(flowControl.get(name()), missing);
});
