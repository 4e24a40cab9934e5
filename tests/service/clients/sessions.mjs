// A client as the published examples of the Sessions API write one: plain fetch, nothing of this project.
// Run as `node sessions.mjs URL`, where URL is the service's http://HOST:PORT with its test clock on. Exits with 1 and a message when
// anything is off.

import { isDeepStrictEqual } from 'node:util';

const [root] = process.argv.slice(2);
const base = `${root}/api/messaging/sessions`;
const agentId = '00000000-0000-4000-8000-0000000000ec';
const userId = '456E7890-E89B-12D3-A456-426614174000';
const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const iso = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

class SessionError extends Error {
  constructor(status, body) {
    super(`${status}: ${JSON.stringify(body)}`);
    this.status = status;
    this.body = body;
  }
}

function check(condition, what) {
  if (!condition) throw new Error(`not so: ${what}`);
}

function same(found, wanted, what) {
  check(isDeepStrictEqual(found, wanted), `${what} is ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`);
}

class SessionClient {
  async request(path, options = {}) {
    const response = await fetch(`${base}${path}`, options);
    const type = response.headers.get('content-type') ?? '';
    check(type.startsWith('application/json'), `${path} answers JSON, not ${type}`);
    const body = await response.json();
    if (!response.ok) throw new SessionError(response.status, body);
    // The published client library takes a body with `success` for an envelope and drops the rest of it.
    if (options.method !== 'DELETE') check(!('success' in body), `${path} has no success`);
    return { status: response.status, body };
  }

  post(path, body) {
    const headers = { 'Content-Type': 'application/json' };
    return this.request(path, body === undefined ? { method: 'POST' } : { method: 'POST', headers, body: JSON.stringify(body) });
  }

  create(options) {
    return this.post('', { agentId, userId, ...options });
  }

  send(sessionId, content, metadata) {
    return this.post(`/${sessionId}/messages`, { content, metadata });
  }

  async messages(sessionId, query = {}) {
    return (await this.request(`/${sessionId}/messages?${new URLSearchParams(query)}`)).body;
  }

  async update(sessionId, settings) {
    const headers = { 'Content-Type': 'application/json' };
    return (await this.request(`/${sessionId}/timeout`, { method: 'PATCH', headers, body: JSON.stringify(settings) })).body;
  }
}

// What the published error handler tells its user.
function explain(error) {
  if (!(error instanceof SessionError)) throw error;
  check(typeof error.body.error === 'string' && error.body.error.length > 0, 'an error has a text');
  check(typeof error.body.details === 'object', 'an error has details');
  check(!('stack' in error.body), 'an error has no stack');
  switch (error.status) {
    case 404:
      return 'not found';
    case 410:
      return 'expired';
    case 422:
      return 'cannot renew';
    case 400:
      if (error.body.error.includes('content')) return 'invalid content';
      if (error.body.error.includes('metadata')) return 'invalid metadata';
      return 'invalid request';
    default:
      throw error;
  }
}

async function outcome(promise) {
  try {
    return `answered ${JSON.stringify(await promise)}`;
  } catch (error) {
    return explain(error);
  }
}

async function poll(question, what) {
  const deadline = Date.now() + 15_000;
  while (Date.now() < deadline) {
    const answer = await question();
    if (answer) return answer;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`waited in vain for ${what}`);
}

async function advance(minutes) {
  const headers = { 'Content-Type': 'application/json' };
  const body = JSON.stringify({ advanceMs: minutes * 60_000 });
  const response = await fetch(`${root}/test/clock`, { method: 'POST', headers, body });
  check(response.ok, 'the test clock moves');
  return new Date((await response.json()).now);
}

async function converse(client) {
  const { status, body: session } = await client.create({
    timeoutConfig: { timeoutMinutes: 30, autoRenew: true, maxDurationMinutes: 120, warningThresholdMinutes: 5 },
    metadata: { platform: 'web', username: 'alice', preferences: { tags: ['a', 'b'], volume: 0.5, unset: null } },
  });
  same(status, 201, 'the status of a create');
  check(uuid.test(session.sessionId) && uuid.test(session.channelId), 'ids are UUIDs in lower case');
  same([session.agentId, session.userId], [agentId, userId.toLowerCase()], 'who talks with whom');
  same(session.metadata, { platform: 'web', username: 'alice', preferences: { tags: ['a', 'b'], volume: 0.5, unset: null } }, 'the metadata');
  check(iso.test(session.createdAt) && iso.test(session.expiresAt), 'times are ISO 8601 in UTC with milliseconds');
  same(new Date(session.expiresAt) - new Date(session.createdAt), 30 * 60_000, 'the time to live');

  const { sessionId } = session;
  await advance(1);
  const sent = await client.send(sessionId, 'Hello, 🤖!', { username: 'bob', clientId: 7, sessionId: 'forged' });
  same(sent.status, 201, 'the status of a send');
  const message = sent.body;
  same([message.content, message.authorId], ['Hello, 🤖!', userId.toLowerCase()], 'the message');
  same([message.metadata.platform, message.metadata.username, message.metadata.clientId], ['web', 'bob', 7], 'the overlaid metadata');
  same(message.metadata.sessionId, sessionId, 'the sessionId in the metadata');
  same([message.sessionStatus.wasRenewed, message.sessionStatus.renewalCount], [true, 1], 'the renewal by a message');
  same(new Date(message.sessionStatus.expiresAt) - new Date(session.expiresAt), 60_000, 'what the renewal gained');

  const reply = await poll(async () => (await client.messages(sessionId)).messages.find((one) => one.isAgent), 'the reply');
  same([reply.content, reply.authorId], ['Hello, 🤖!', agentId], 'the reply');

  for (let number = 1; number <= 12; number += 1) await client.send(sessionId, `message ${number}`);
  const whole = await poll(async () => {
    const page = await client.messages(sessionId, { limit: 100 });
    return page.messages.length === 26 && page;
  }, 'all replies');
  same(whole.hasMore, false, 'hasMore of the whole');
  const ids = whole.messages.map((one) => one.id);
  same(new Set(ids).size, 26, 'the number of different messages');

  const older = [];
  for (let query = { limit: 5 }; ; ) {
    const page = await client.messages(sessionId, query);
    older.push(...page.messages.map((one) => one.id));
    same(page.cursors.before, Date.parse(page.messages.at(-1).createdAt), 'the cursor before');
    same(page.cursors.after, Date.parse(page.messages[0].createdAt), 'the cursor after');
    if (!page.hasMore) break;
    query = { limit: 5, before: page.cursors.before };
  }
  same(older, ids, 'the history backwards, page by page');

  const newer = [];
  for (let query = { limit: 5, after: Date.parse(session.createdAt) - 1 }; ; ) {
    const page = await client.messages(sessionId, query);
    newer.unshift(...page.messages.map((one) => one.id));
    if (!page.hasMore) break;
    query = { limit: 5, after: page.cursors.after };
  }
  same(newer, ids, 'the history forwards, page by page');
  same((await client.messages(sessionId, { after: whole.cursors.after })).messages, [], 'what is newer than the newest');

  const renewed = (await client.post(`/${sessionId}/renew`)).body;
  same(renewed.renewalCount, 14, 'the renewals after one by hand');
  await advance(2);
  const kept = (await client.post(`/${sessionId}/heartbeat`)).body;
  same(kept.renewalCount, 15, 'the renewals after a heartbeat');
  same(new Date(kept.expiresAt) - new Date(renewed.expiresAt), 2 * 60_000, 'what the heartbeat gained');
  same([kept.timeRemaining, kept.isNearExpiration], [30 * 60_000, false], 'the live status');

  const patched = await client.update(sessionId, { timeoutMinutes: 60, autoRenew: false });
  const settings = { timeoutMinutes: 60, autoRenew: false, maxDurationMinutes: 120, warningThresholdMinutes: 5 };
  same(Object.keys(settings).map((key) => patched.timeoutConfig[key]), Object.values(settings), 'the patched settings');

  await advance(56);
  const late = (await client.request(`/${sessionId}`)).body;
  same([late.isNearExpiration, late.timeRemaining], [true, 4 * 60_000], 'the status near the end');
  check((await client.request('')).body.sessions.some((one) => one.sessionId === sessionId), 'the session is listed');

  const gone = (await client.request(`/${sessionId}`, { method: 'DELETE' })).body;
  same(gone, { success: true, message: `Session ${sessionId} deleted successfully` }, 'the answer to a delete');
  same(await outcome(client.request(`/${sessionId}`)), 'not found', 'a deleted session');
  same(await outcome(client.request(`/${sessionId}`, { method: 'DELETE' })), 'not found', 'a second delete');
}

async function tellErrorsApart(client) {
  const { sessionId } = (await client.create({ timeoutConfig: { timeoutMinutes: 10, maxDurationMinutes: 15 } })).body;
  same(await outcome(client.send(sessionId, '')), 'invalid content', 'an empty message');
  same(await outcome(client.send(sessionId, 'x'.repeat(4001))), 'invalid content', 'a message that is too long');
  same(await outcome(client.send(sessionId, undefined)), 'invalid content', 'a message without content');
  same(await outcome(client.send(sessionId, 'a', 'text')), 'invalid metadata', 'metadata that is no object');
  same(await outcome(client.send(sessionId, 'a', { large: 'x'.repeat(10_240) })), 'invalid metadata', 'metadata that is too large');
  same(await outcome(client.update(sessionId, { timeoutMinutes: 1 })), 'invalid request', 'a timeout that is too short');
  same(await outcome(client.create({ agentId: 'no-uuid' })), 'invalid request', 'an agent id that is no UUID');
  same(await outcome(client.create({ agentId: userId })), 'not found', 'an unknown agent');
  same(await outcome(client.send('no-such-session', 'a')), 'not found', 'an unknown session');

  await advance(8);
  same((await client.send(sessionId, 'x'.repeat(4000))).status, 201, 'the longest message');
  same(await outcome(client.post(`/${sessionId}/renew`)), 'cannot renew', 'a renewal at the maximum duration');
  await advance(7);
  for (const attempt of [1, 2]) {
    same(await outcome(client.request(`/${sessionId}`)), 'expired', `look ${attempt} at an expired session`);
    same(await outcome(client.send(sessionId, 'a')), 'expired', 'a message to an expired session');
    same(await outcome(client.messages(sessionId)), 'expired', 'the history of an expired session');
    same(await outcome(client.post(`/${sessionId}/renew`)), 'expired', 'a renewal of an expired session');
    same(await outcome(client.post(`/${sessionId}/heartbeat`)), 'expired', 'a heartbeat of an expired session');
  }

  // What the published client does about it: a new session, and the message again.
  const next = (await client.create()).body;
  same((await client.send(next.sessionId, 'again')).status, 201, 'a message to the next session');
  const health = (await client.request('/health')).body;
  same([health.status, typeof health.activeSessions, iso.test(health.timestamp)], ['healthy', 'number', true], 'the health');
}

try {
  const client = new SessionClient();
  await converse(client);
  await tellErrorsApart(client);
  console.log('all as published');
} catch (error) {
  console.error(error);
  process.exitCode = 1;
}
