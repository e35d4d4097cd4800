// The client, and a destination for its messages: what every test file of this folder begins with.

import { randomUUID } from "node:crypto";
import { once } from "node:events";
import http from "node:http";
import { setTimeout as pause } from "node:timers/promises";

import { Client } from "@upstash/qstash";

export const FAR = "2d"; // a delay that no test lives to see
export const client = new Client({ retry: false }); // QSTASH_URL and QSTASH_TOKEN are in the environment

const patience = 30_000; // ms

// A name that no other test has.
export const name = () => `n-${randomUUID().slice(0, 13)}`;

// What the check gives, as soon as it is true; an assertion that fails is tried again until patience ends.
export async function eventually(check) {
  const end = Date.now() + patience;
  for (;;) {
    try {
      const value = await check();
      if (value) return value;
      if (Date.now() > end) throw new Error(`not within ${patience} ms: last seen ${JSON.stringify(value)}`);
    } catch (error) {
      if (Date.now() > end) throw error;
    }
    await pause(20);
  }
}

// States of a message's history, oldest first, once it has come to this one.
export async function ended(messageId, state = "DELIVERED") {
  return eventually(async () => {
    const { logs } = await client.logs({ filter: { messageId } });
    return logs[0]?.state === state && logs.map((log) => log.state).reverse();
  });
}

// The dead letter of a message, once there is one.
export async function dead(messageId) {
  return eventually(async () => (await client.dlq.listMessages({ filter: { messageId } })).messages[0]);
}

// A server on loopback that keeps what it is sent. A path is answered as `told` says: a list of {status, headers, body},
// taken in turn, the last one for ever; any other with 200.
export class Endpoint {
  seen = [];
  told = new Map();
  #server = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const [path, query = ""] = request.url.split("?", 2);
    const { method, headers } = request;
    this.seen.push({ method, path, query, headers, body: Buffer.concat(parts).toString() });
    const answers = this.told.get(path) ?? [{}];
    const { status = 200, headers: given = {}, body = "" } = answers.length > 1 ? answers.shift() : answers[0];
    response.writeHead(status, given).end(body);
  });

  async start() {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return this;
  }

  // Takes no more; connections that a sender keeps open are closed.
  stop() {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  url(path) {
    return `http://127.0.0.1:${this.#server.address().port}${path}`;
  }

  // A path that no other test has; answered as it is told here.
  path(...answers) {
    const path = `/${name()}`;
    if (answers.length) this.told.set(path, answers);
    return path;
  }

  requests(path) {
    return this.seen.filter((one) => one.path === path);
  }

  async until(path, count = 1) {
    return eventually(() => {
      const found = this.requests(path);
      if (found.length < count) throw new Error(`${found.length} of ${count} requests to ${path}`);
      return found;
    });
  }
}
