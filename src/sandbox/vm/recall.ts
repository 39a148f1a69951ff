/** What of a container has to be taken up again by an engine that held its processes itself. Pure. */
import { bulkhead } from '../../gen/bulkhead.js';
import type { ContainerRecord } from '../../state/index.ts';
import type { RecalledProcess } from './pod_agent.ts';

const { STATUS_STOPPED } = bulkhead.state.v1.Status;

/** All of its processes that were not seen to end. */
export function recalledProcesses({ id, init, execs }: ContainerRecord): RecalledProcess[] {
  return [init, ...(execs ?? [])].flatMap((process) => {
    if ((process?.status ?? STATUS_STOPPED) === STATUS_STOPPED) return [];
    const { stdin, stdout, stderr, terminal } = process ?? {};
    const stdio = {
      stdin: stdin ?? '',
      stdout: stdout ?? '',
      stderr: stderr ?? '',
      terminal: terminal ?? false,
    };
    return [{ containerId: id ?? '', execId: process?.id ?? '', stdio }];
  });
}
