/** What a wall needs to pass PCI functions, in one module that is loaded when a container asks for one. */
export { CdiError } from './cdi/error.ts';
export { applyEdits, completeNodes } from './cdi/edits.ts';
export { hostTree } from './host_tree.ts';
export { DeviceJournal } from './journal.ts';
export { journalFiles } from './journal_files.ts';
export { readMachine } from './machine.ts';
export { readPci } from './pci.ts';
export { readAhead } from './read_ahead.ts';
export { contributeVfio, vfioEnvironment } from './vfio/contribute.ts';
export { preflightVfio, refusedNodes } from './vfio/preflight.ts';
export { vfioDevice } from './vfio/probe.ts';
export { functionsOfNodes, isVfioNode, vfioNodesOf, withoutVfioNodes } from './vfio/request.ts';
