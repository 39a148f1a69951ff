/** Kills for want of memory, as a guest tells of them. */

/** Of one container; a guest that was taken over tells of as many as it likes, and containerd is told of each. */
export const KILL_PAUSE_MS = 100;

/** Passes on what is told after that pause, and drops the rest. */
export function withPause(onKill: () => void): () => void {
  let last = -Infinity;
  return () => {
    const now = performance.now();
    if (now - last < KILL_PAUSE_MS) return;
    last = now;
    onKill();
  };
}
