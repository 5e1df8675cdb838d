//! penstock's core for the rows that read and write archives: see `archive.rs` of the protocol.

use std::sync::Arc;

use penstock_core::barc::{Reader, Record, Strategy, Writer};
use penstock_core::body::{BodyImage, Budget, Tunables};
use penstock_protocol::Failure;
use penstock_protocol::archive::{Action, Library, Look, MOST_IN_MEMORY, PIECE, Task};

struct Core {
    tunables: Arc<Tunables>,
    records: Vec<Record>,
}

impl Library for Core {
    fn open(task: &Task) -> Result<Self, Failure> {
        let tunables = Arc::new(Tunables { temp_dir: Some(task.dir.clone()), ..Tunables::default() });
        let mut records = Vec::new();
        if task.action == Action::Write {
            let in_memory = Arc::new(Tunables { max_body_ram: MOST_IN_MEMORY, ..Tunables::default() });
            let mut reader = Reader::open(&task.source, in_memory, Budget::shared())?;
            let mut at = 0;
            while let Some((entry, record)) = reader.read(at)? {
                records.push(record);
                at = entry.end();
            }
        }
        Ok(Self { tunables, records })
    }

    fn read(&self, task: &Task, look: &mut impl Look) -> Result<(), Failure> {
        let mut reader = Reader::open(&task.source, self.tunables.clone(), Budget::shared())?;
        let mut at = 0;
        while let Some((entry, record)) = reader.read(at)? {
            for block in [&record.meta, &record.req_headers, &record.res_headers] {
                for (name, value) in block.iter() {
                    look.line(&name, value);
                }
            }
            body(&record.req_body, look)?;
            body(&record.res_body, look)?;
            at = entry.end();
        }
        Ok(())
    }

    fn write(&self, task: &Task) -> Result<(), Failure> {
        let mut writer = Writer::open(&task.output, 0, false)?;
        let strategy = if task.gzip { Strategy::gzip() } else { Strategy::default() };
        for record in &self.records {
            writer.append(record, &strategy)?;
        }
        Ok(())
    }
}

fn body(body: &BodyImage, look: &mut impl Look) -> Result<(), Failure> {
    let mut reader = body.reader(PIECE);
    while let Some(piece) = reader.next_piece()? {
        look.piece(&piece);
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    penstock_protocol::archive::main::<Core>()
}
