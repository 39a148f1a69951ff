export { errnoName, errnoNumber, errnoText } from '../base/errno.ts';
