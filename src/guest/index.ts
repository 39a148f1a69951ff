/** The guest: its kernel, its initial file system, and the cache of both. */
export { buildKernel } from './build_kernel.ts';
export { GuestCache, contentKey, type KernelInfo } from './cache.ts';
export { findGuest, type Guest, type GuestPlace } from './guest.ts';
export { importKernel } from './import_kernel.ts';
export { guestProgram, kernelFragment } from './place.ts';
