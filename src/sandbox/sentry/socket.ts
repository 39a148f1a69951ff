/** Where a supervisor is reached. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';

/** Short: a socket's path has 108 bytes, and a container's id may have as many. */
export function supervisorSocket(socketDir: string, namespace: string, id: string): string {
  const name = createHash('sha256').update(`${namespace}/${id}`).digest('hex').slice(0, 24);
  return join(socketDir, name);
}

/** The directory of the sockets below a state root; made with mode 0700. */
export function socketDirectory(root: string): string {
  return join(root, 'sentry');
}
