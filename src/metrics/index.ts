/**
 * Container metrics on the wire: the protobuf Any that the Task service's Stats answers. containerd looks the type url
 * up by name, without the usual "type.googleapis.com/" prefix.
 */
import type { ContainerMetrics } from '../cgroups/index.ts';
import { io } from '../gen/containerd.js';

export type { ContainerMetrics };

/** google.protobuf.Any, as the generated code has it. */
export interface Any {
  typeUrl: string;
  value: Uint8Array;
}

export const metricsTypeV1 = 'io.containerd.cgroups.v1.Metrics';
export const metricsTypeV2 = 'io.containerd.cgroups.v2.Metrics';

/** The Any that carries `metrics`. */
export function encodeMetrics(metrics: ContainerMetrics): Any {
  return metrics.version === 1
    ? { typeUrl: metricsTypeV1, value: io.containerd.cgroups.v1.Metrics.encode(metrics.metrics).finish() }
    : { typeUrl: metricsTypeV2, value: io.containerd.cgroups.v2.Metrics.encode(metrics.metrics).finish() };
}

/** The metrics in an Any of either kind; undefined for any other type. */
export function decodeMetrics(any: Any): ContainerMetrics | undefined {
  if (any.typeUrl === metricsTypeV1) {
    return { version: 1, metrics: io.containerd.cgroups.v1.Metrics.decode(any.value) };
  }
  if (any.typeUrl === metricsTypeV2) {
    return { version: 2, metrics: io.containerd.cgroups.v2.Metrics.decode(any.value) };
  }
  return undefined;
}
