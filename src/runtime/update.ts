/** update: new resource limits for a container that exists. */
import type { LinuxResources } from '../oci/types.ts';
import type { Container } from './container.ts';
import { transition } from './lifecycle.ts';

/** FailedPrecondition when the container is stopped; the error names the cgroup file and the value. */
export async function updateContainer(container: Container, resources: LinuxResources): Promise<void> {
  transition('update', container.status, container.id);
  await container.backend.update(container.record, resources, container.executor);
}
