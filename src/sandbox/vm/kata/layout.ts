/** Where Kata's agent and its runtime have things in the guest. */
import type { GuestPlaces } from '../pod_agent.ts';

export const kataPlaces: GuestPlaces = {
  shareTag: 'kataShared',
  share: '/run/kata-containers/shared/containers',
  shm: '/run/kata-containers/sandbox/shm',
};

export const VSOCK_PORT = 1024;
