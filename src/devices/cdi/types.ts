/** The Container Device Interface, version 1.1.0: what a spec file holds. Fields are absent, never null, once parsed. */

export interface CdiSpec {
  cdiVersion: string;
  /** "vendor.com/class". */
  kind: string;
  annotations?: Record<string, string>;
  devices: CdiDevice[];
  containerEdits?: ContainerEdits;
}

export interface CdiDevice {
  name: string;
  annotations?: Record<string, string>;
  containerEdits: ContainerEdits;
}

export interface ContainerEdits {
  env?: string[];
  deviceNodes?: DeviceNode[];
  netDevices?: NetDevice[];
  hooks?: CdiHook[];
  mounts?: CdiMount[];
  intelRdt?: CdiIntelRdt;
  additionalGids?: number[];
}

export interface DeviceNode {
  /** In the container; on the host too unless hostPath says otherwise. */
  path: string;
  hostPath?: string;
  /** "b", "c", "u" or "p"; absent or empty: as on the host. */
  type?: string;
  /** Absent or 0: as on the host. */
  major?: number;
  minor?: number;
  fileMode?: number;
  /** Letters of "rwm" for the cgroup; empty: all of them; "none": no access. */
  permissions?: string;
  uid?: number;
  gid?: number;
}

export interface NetDevice {
  hostInterfaceName: string;
  name: string;
}

export interface CdiHook {
  hookName: string;
  path: string;
  args?: string[];
  env?: string[];
  /** Seconds. */
  timeout?: number;
}

export interface CdiMount {
  hostPath: string;
  containerPath: string;
  options?: string[];
  type?: string;
}

export interface CdiIntelRdt {
  closID?: string;
  l3CacheSchema?: string;
  memBwSchema?: string;
  schemata?: string[];
  enableMonitoring?: boolean;
}
