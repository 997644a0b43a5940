// The topics of this application. A wrong topic or payload is an error of the compiler, and is refused at run time.
import { defineTopics } from 'pg-outbox';
import { z } from 'zod';

export const events = defineTopics({
    'order.created': z.object({ order: z.number(), amount: z.number().positive() }),
});
