/** BULKHEAD_ROOT on the disk that outlives the cut. */
export const STATE = '/mnt/state/bulkhead';
