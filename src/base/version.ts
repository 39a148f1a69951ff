/** The version of everything in this tree; the bundler checks that package.json says the same. */
export const VERSION = '0.1.0';
