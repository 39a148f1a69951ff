/** The namespace wall: what runc does, and nothing else. */
import { HostBackend } from '../host_backend.ts';

export class NamespaceBackend extends HostBackend {
  readonly wall = 'namespace';
}
