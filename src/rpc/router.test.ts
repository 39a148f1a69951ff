import { describe, expect, it } from 'vitest';
import { ErrorCode, RuntimeError } from '../base/errors.ts';
import { containerd } from '../gen/containerd.js';
import { metadataOf } from './codec.ts';
import { CallContext } from './context.ts';
import { Router } from './router.ts';
import { errorOf, statusOf } from './status.ts';

const { StateRequest, StateResponse } = containerd.task.v3;
const state = { service: 'Task', method: 'State', request: StateRequest, response: StateResponse };
const context = (): CallContext =>
  new CallContext({ service: 'Task', method: 'State', metadata: metadataOf([]), peer: { name: 'test' } });

describe('Router', () => {
  it('decodes, calls and encodes', async () => {
    const router = new Router();
    router.register({ ...state, handler: async (_ctx, { id }) => ({ id: `${id}!` }) });
    const route = router.route('Task', 'State');
    if (route.kind !== 'unary') throw new Error('not unary');
    const answer = await route.call(context(), StateRequest.encode({ id: 'web' }).finish());
    expect(StateResponse.decode(answer).id).toBe('web!');
    expect([...router.routes()].map(({ service, method }) => `${service}/${method}`)).toEqual(['Task/State']);
  });

  it('takes a method once', () => {
    const router = new Router();
    router.register({ ...state, handler: () => ({}) });
    expect(() => router.register({ ...state, handler: () => ({}) })).toThrow(
      'register Task/State: already registered',
    );
  });
});

describe('CallContext', () => {
  it('is cancelled once, also before anybody asks for its signal', () => {
    const heard: RuntimeError[] = [];
    const details = { service: 's', method: 'm', metadata: metadataOf([]), peer: { name: 'test' } };
    const ctx = new CallContext(details, (reason) => heard.push(reason));
    const first = new RuntimeError({ code: ErrorCode.Canceled, op: 'm', reason: 'first' });
    ctx.cancel(first);
    ctx.cancel(new RuntimeError({ code: ErrorCode.Canceled, op: 'm', reason: 'second' }));
    expect(heard).toEqual([first]);
    expect(ctx.signal.reason).toBe(first);
  });

  it('knows containerd’s namespace by either header', () => {
    const namespace = (key: string): string | undefined =>
      new CallContext({
        service: 's',
        method: 'm',
        metadata: metadataOf([[key, 'k8s.io']]),
        peer: { name: 'test' },
      }).namespace;
    expect(namespace('containerd-namespace-ttrpc')).toBe('k8s.io');
    expect(namespace('Containerd-Namespace')).toBe('k8s.io');
    expect(namespace('other')).toBeUndefined();
  });
});

describe('status', () => {
  it.each([
    [
      new RuntimeError({ code: ErrorCode.NotFound, op: 'state', id: 'web', reason: 'no such task' }),
      5,
      'state web: no such task',
    ],
    [new Error('plain'), 2, 'plain'],
    ['text', 2, 'text'],
    [undefined, 2, 'undefined'],
  ])('of %s', (thrown, code, message) => {
    expect(statusOf(thrown)).toEqual({ code, message });
  });

  it('becomes an error again; codes that containerd does not know are Unknown', () => {
    expect(errorOf({ code: 5, message: 'gone' }, 'State')).toMatchObject({
      code: ErrorCode.NotFound,
      message: 'State: gone',
    });
    expect(errorOf({ code: 99, message: 'odd' }, 'State')).toMatchObject({ code: ErrorCode.Unknown });
  });
});
