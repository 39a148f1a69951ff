export { type EventConnection, EventPublisher, type EventPublisherOptions } from './publisher.ts';
